"""What labels say of the first output, whatever it is: classes, classes at each pixel, numbers."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from edgekd.algorithms.cross_entropy import label_cross_entropy
from edgekd.algorithms.embedding_loss import scaled_smooth_l1
from edgekd.algorithms.kd_loss import relative_mse_loss
from edgekd.distillation.term import Side

LabelLoss = Callable[[Tensor, Tensor], Tensor]  # of the first output and the labels, to a scalar


def label_loss(side: Side) -> LabelLoss | None:
    """Return the loss against labels for this kind of output; None where there are no labels."""
    if side.classes:
        return label_cross_entropy
    if side.pixel_classes:
        return pixel_cross_entropy
    return value_loss if side.regression else None


def labelled(labels: Tensor, classes: int) -> Tensor:
    """Return which pixels have a label: one of the classes, so not -1, nor 255 where it is none."""
    return (labels >= 0) & (labels < classes)


def pixel_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross entropy, mean over the pixels that have a label; 0 without any.

    Args:
        logits: ``(N, C, H, W)``.
        labels: ``(N, H, W)``, int64.
    """
    return label_cross_entropy(logits, labels.where(labelled(labels, logits.shape[1]), -1))


def value_loss(found: Tensor, targets: Tensor) -> Tensor:
    """Return ``scaled_smooth_l1`` to the targets in units of each one's deviation in the batch.

    Samples with a NaN among their targets have none, and do not count. A single one is compared by
    ``relative_mse_loss``, since it has no deviation.

    Args:
        found: ``(N, ...)``.
        targets: as many numbers, in a shape that may lack axes of length 1.
    """
    truth = targets.reshape(found.shape)
    known = with_truth(truth)
    if not known.any():
        return found.sum() * 0.0
    compare = scaled_smooth_l1 if known.sum() > 1 else relative_mse_loss
    return compare(found[known], truth[known])


def with_truth(targets: Tensor) -> Tensor:
    """Return which samples have targets, bool ``(N,)``: no NaN is among them."""
    return ~targets.flatten(1).isnan().any(1)
