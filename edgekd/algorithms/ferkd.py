"""Targets for crops: the teacher's where it is worth something, softened labels where it is not."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.algorithms.cross_entropy import label_mask, log_probabilities, matched
from edgekd.algorithms.precision import wide

NEEDS = frozenset({"classes", "labels"})


def adapted_targets(
    teacher_probabilities: Tensor,
    labels: Tensor,
    *,
    lowest: float = 0.15,
    middle: float = 0.3,
    highest: float = 1.0,
    smoothing: float = 0.1,
    ignore_index: int = -1,
) -> tuple[Tensor, Tensor]:
    """Return targets ``(N, C)`` and which samples are kept, bool ``(N,)``.

    With v the teacher's largest probability: below ``lowest`` (nothing to see) and above
    ``highest`` (nothing to learn) a crop is dropped; from ``lowest`` to below ``middle`` the
    target is the label with ``smoothing`` spread over the other classes; otherwise it is the
    teacher's.

    Args:
        teacher_probabilities: ``(N, C)``; no gradient flows into them.
        labels: classes ``(N,)``, int64. A sample without a label keeps the teacher's target.
        lowest: from here on a crop is kept.
        middle: from here on the teacher is trusted.
        highest: up to here a crop is kept.
        smoothing: probability that the label gives away.
        ignore_index: the label of samples without one.

    Raises ValueError unless ``0 <= lowest <= middle`` and ``lowest <= highest``.

    Source: Shen, "FerKD: Surgical Label Adaptation for Efficient Distillation", ICCV 2023. The
    bands are read from descriptions of it: that v is the largest probability, and all four
    numbers, are our reading, not verified; no training code is released.
    """
    if not 0 <= lowest <= middle or lowest > highest:
        raise ValueError(f"bands of confidence {lowest}, {middle}, {highest} are out of order")
    probabilities = wide(teacher_probabilities.detach())
    classes = probabilities.shape[-1]
    sure = probabilities.amax(-1)
    kept = (sure >= lowest) & (sure <= highest)
    right = label_mask(labels, classes, ignore_index=ignore_index)
    other = smoothing / (classes - 1)
    softened = torch.where(right, 1 - smoothing, other).to(probabilities.dtype)
    use_label = (sure < middle) & (labels != ignore_index)
    return torch.where(use_label[:, None], softened, probabilities), kept


def ferkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    labels: Tensor,
    lowest: float = 0.15,
    middle: float = 0.3,
    highest: float = 1.0,
    smoothing: float = 0.1,
    ignore_index: int = -1,
) -> Tensor:
    """Return the cross-entropy with ``adapted_targets``, mean over the crops that are kept.

    Needs class logits and labels. No temperature; 0 if no crop is kept. The weight is 1, alone.

    Args:
        student_logits: ``(N, C)``.
        teacher_logits: ``(N, C)``; no gradient flows into them.
        labels: classes ``(N,)``, int64.
        lowest: see ``adapted_targets``, and so the others.
        middle: of the bands.
        highest: of the bands.
        smoothing: of the label.
        ignore_index: the label of samples without one.
    """
    student, teacher = matched(student_logits, teacher_logits)
    targets, kept = adapted_targets(
        F.softmax(teacher, dim=-1),
        labels,
        lowest=lowest,
        middle=middle,
        highest=highest,
        smoothing=smoothing,
        ignore_index=ignore_index,
    )
    each = -(targets * log_probabilities(student)).sum(-1)
    return each.masked_fill(~kept, 0.0).sum() / kept.sum().clamp_min(1)
