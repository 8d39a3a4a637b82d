"""Distillation of joint (class, rotation) logits that branches behind every stage predict."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.algorithms.kd_loss import kl_loss
from edgekd.algorithms.label_augmentation import ROTATIONS, label_augmentation_loss
from edgekd.algorithms.precision import wide

NEEDS = frozenset({"classes", "labels", "pooled"})  # branches take any feature


def hierarchical_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    student_branches: Sequence[Tensor],
    teacher_branches: Sequence[Tensor],
    labels: Tensor,
    temperature: float = 3.0,
    transforms: int = ROTATIONS,
    ignore_index: int = -1,
) -> Tensor:
    """Return ``CE(y, s[::n]) + D(s, t) + sum_l D(a_l, b_l)``, D = ``kl_loss``; a scalar.

    Needs class logits and labels; images that can be turned; branches (``JointHead`` or a deeper
    one) behind as many stages of the student as of the teacher, whose branches ``branch_loss`` has
    trained. Every D is a mean over all n N copies. Branches go before export. Without any, and with
    one transformation, it is the cross entropy plus ``kl_loss``.

    Args:
        student_logits: s ``(n N, C)``, copies of an image next to each other (``rotations``).
        teacher_logits: t, the same shape; no gradient flows into them.
        student_branches: joint logits a_l, each ``(n N, n C)``.
        teacher_branches: b_l, the same shapes in the same order; no gradient flows into them.
        labels: integer ``(N,)``.
        temperature: T of every D, 3 in the source.
        transforms: n.
        ignore_index: the label of a sample without one; only the D count for it.

    Raises ValueError for another number of branches on either side.

    Source: Yang et al., "Hierarchical Self-supervised Augmented Knowledge Distillation" (HSAKD),
    IJCAI 2021, arXiv 2107.13715, with all weights 1 and the copies' order of the released code.
    """
    if len(student_branches) != len(teacher_branches):
        raise ValueError(
            f"{len(student_branches)} branches of the student cannot be compared with "
            f"{len(teacher_branches)} of the teacher"
        )
    pairs = [(student_logits, teacher_logits)]
    pairs += zip(student_branches, teacher_branches, strict=True)
    divergences = [kl_loss(wide(s), wide(t), temperature) for s, t in pairs]
    known = (labels != ignore_index).sum().clamp_min(1)
    single = F.cross_entropy(
        wide(student_logits[::transforms]),
        labels.long(),
        ignore_index=ignore_index,
        reduction="sum",
    )
    return single / known + torch.stack(divergences).sum()


def branch_loss(
    branches: Sequence[Tensor],
    *,
    labels: Tensor,
    transforms: int = ROTATIONS,
    ignore_index: int = -1,
) -> Tensor:
    """Return the sum over branches of the joint labels' cross entropy; a scalar.

    It is what trains the teacher's branches, before the student learns from them. The source adds
    the final logits' cross entropy, and trains the whole teacher with it; on a frozen teacher it
    trains the branches alone.

    Args:
        branches: joint logits, each ``(n N, n C)``, one or more.
        labels: integer ``(N,)``.
        transforms: n.
        ignore_index: the label of a sample without one.

    Raises ValueError without branches.
    """
    if not branches:
        raise ValueError("there is no branch to train")
    losses = [
        label_augmentation_loss(logits, labels, transforms=transforms, ignore_index=ignore_index)
        for logits in branches
    ]
    return torch.stack(losses).sum()
