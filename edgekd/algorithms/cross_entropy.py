"""Pieces that the losses on logits share: float32 logarithms of probabilities, cross-entropies."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from edgekd.algorithms.precision import wide


def matched(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return both logits in float32 or better, the teacher's cut off from its graph.

    Raises ValueError for unequal shapes, which would otherwise be broadcast.
    """
    if student.shape != teacher.shape:
        found, expected = tuple(student.shape), tuple(teacher.shape)
        raise ValueError(f"logits of student and teacher differ in shape: {found}, {expected}")
    return wide(student), wide(teacher.detach())


def log_probabilities(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return ``log softmax(logits / T)`` over the last axis, in float32 or better."""
    return F.log_softmax(wide(logits) / temperature, dim=-1)


def soft_cross_entropy(student_logits: Tensor, targets: Tensor) -> Tensor:
    """Return ``-sum_c q_c log softmax(s)_c``, mean over all but the last axis.

    Args:
        student_logits: ``(..., C)``.
        targets: probabilities q ``(..., C)``; no gradient flows into them.
    """
    per_sample = -(wide(targets.detach()) * log_probabilities(student_logits)).sum(-1)
    return per_sample.mean()


def label_cross_entropy(logits: Tensor, labels: Tensor, *, ignore_index: int = -1) -> Tensor:
    """Return ``-log softmax(logits)_y``, mean over samples that have a label; 0 without any.

    Args:
        logits: ``(N, C)``.
        labels: classes ``(N,)``, int64.
        ignore_index: the label of samples without one.
    """
    labelled = labels != ignore_index
    each = F.cross_entropy(wide(logits), labels, reduction="none", ignore_index=ignore_index)
    return each.sum() / labelled.sum().clamp_min(1)


def label_mask(labels: Tensor, classes: int, *, ignore_index: int = -1) -> Tensor:
    """Return where the label's class is, bool ``(N, C)``; nowhere for samples without a label."""
    labelled = labels != ignore_index
    return F.one_hot(labels.where(labelled, 0), classes).bool() & labelled[:, None]
