"""Labels that also say how an image was turned, and a student that learns from all its turns.

Lee et al., "Self-supervised Label Augmentation via Input Transformations", ICML 2020, arXiv
1910.05872. With n transformations a batch of N images becomes one of n * N, copies of an image next
to each other, the first of them as it was; the joint label of copy j of class c is ``c * n + j``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.algorithms.kd_loss import kl_loss
from edgekd.algorithms.precision import wide

NEEDS = frozenset({"classes", "labels"})
ROTATIONS = 4


def rotations(images: Tensor) -> Tensor:
    """Return each image and its turns by 90, 180 and 270 degrees, ``(4 N, C, H, W)``.

    Args:
        images: ``(N, C, H, W)``, square.

    Raises ValueError where turning would change the shape.
    """
    if images.ndim != 4 or images.shape[2] != images.shape[3]:
        raise ValueError(f"images of shape {tuple(images.shape[1:])} cannot be turned by a quarter")
    turned = [images.rot90(turns, (2, 3)) for turns in range(ROTATIONS)]
    return torch.stack(turned, 1).flatten(0, 1)


def joint_labels(labels: Tensor, transforms: int = ROTATIONS, *, ignore_index: int = -1) -> Tensor:
    """Return the joint labels int64 ``(N * transforms,)``; ``ignore_index`` stays what it is.

    Args:
        labels: integer ``(N,)``.
        transforms: n, 1 and up.
        ignore_index: the label of a sample without one.
    """
    index = torch.arange(transforms, device=labels.device)
    joint = labels.long()[:, None] * transforms + index
    return joint.where(labels[:, None] != ignore_index, ignore_index).flatten()


def aggregate(joint_logits: Tensor, transforms: int = ROTATIONS) -> Tensor:
    """Return for each class the mean over copies j of its logit with transformation j, ``(N, C)``.

    Args:
        joint_logits: ``(N * n, C * n)``.
        transforms: n.

    Raises ValueError for sizes that n does not divide.
    """
    rows, columns = joint_logits.shape
    if rows % transforms or columns % transforms:
        raise ValueError(f"{rows} x {columns} joint logits are not for {transforms} copies each")
    split = joint_logits.reshape(rows // transforms, transforms, -1, transforms)
    return split.diagonal(dim1=1, dim2=3).mean(-1)


def label_augmentation_loss(
    joint_logits: Tensor,
    labels: Tensor,
    *,
    transforms: int = ROTATIONS,
    ignore_index: int = -1,
) -> Tensor:
    """Return the cross entropy of the joint labels, mean over copies with a label; a scalar.

    Needs labels. With one transformation it is the plain cross entropy. 0 where no sample has a
    label.

    Args:
        joint_logits: ``(N * n, C * n)``, of a ``JointHead``.
        labels: integer ``(N,)``.
        transforms: n.
        ignore_index: the label of a sample without one.
    """
    joint = joint_labels(labels, transforms, ignore_index=ignore_index)
    return _cross_entropy(joint_logits, joint, ignore_index)


def label_augmentation_distillation_loss(
    student_logits: Tensor,
    joint_logits: Tensor,
    *,
    labels: Tensor,
    temperature: float = 1.0,
    transforms: int = ROTATIONS,
    ignore_index: int = -1,
) -> Tensor:
    """Return ``CE(joint) + CE(y, s) + T^2 KL(softmax(a / T) || softmax(s / T))``; a scalar.

    Needs class logits and labels; images that can be turned. ``a`` is the aggregate of the joint
    logits: what n passes know together, the student's own head learns for one. No teacher network;
    the joint head goes before export. Where samples have no label, only the KL counts for them.

    Args:
        student_logits: s ``(N, C)`` of the copies that were not turned (``[::n]``), from a head of
            its own on the same features as the joint one.
        joint_logits: ``(N * n, C * n)``; the KL sends no gradient into them.
        labels: integer ``(N,)``.
        temperature: T, 1 in the source.
        transforms: n.
        ignore_index: the label of a sample without one.

    Raises ValueError for shapes that do not fit.

    Source: SLA+SD of arXiv 1910.05872; all three weights 1 and T = 1 as there and in
    the released code, whose option to multiply the joint term by n is left out.
    """
    target = aggregate(joint_logits, transforms)
    if target.shape != student_logits.shape:
        found, expected = tuple(student_logits.shape), tuple(target.shape)
        raise ValueError(f"the student's logits have the shape {found}, the aggregate {expected}")
    joint = label_augmentation_loss(
        joint_logits, labels, transforms=transforms, ignore_index=ignore_index
    )
    single = _cross_entropy(student_logits, labels.long(), ignore_index)
    return joint + single + kl_loss(wide(student_logits), wide(target), temperature)


class JointHead(nn.Module):
    """Joint logits of a feature: mean over its places, then linear. For training only.

    Args:
        channels: C of the feature, ``(N, C, H, W)``, ``(N, T, C)`` or ``(N, C)``.
        classes: of the labels, before they are joined with transformations.
        transforms: n.
    """

    def __init__(self, channels: int, classes: int, transforms: int = ROTATIONS) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, classes * transforms)

    def forward(self, feature: Tensor) -> Tensor:
        """Return logits ``(N, classes * transforms)``."""
        if feature.ndim == 4:
            feature = feature.mean((2, 3))
        elif feature.ndim == 3:
            feature = feature.mean(1)
        logits: Tensor = self.linear(feature)
        return logits


def _cross_entropy(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    errors = F.cross_entropy(wide(logits), labels, ignore_index=ignore_index, reduction="sum")
    return errors / (labels != ignore_index).sum().clamp_min(1)
