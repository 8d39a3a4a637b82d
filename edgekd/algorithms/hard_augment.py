"""How strongly to augment each sample: more where a student disagrees with its teacher."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.algorithms.precision import wide

NEEDS = frozenset({"classes"})


@torch.no_grad()
def augmentation_strength(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    labels: Tensor | None = None,
    lowest: float = 0.0,
    highest: float = 1.0,
    ignore_index: int = -1,
) -> Tensor:
    """Return the strength for each sample, float ``(N,)``, between ``lowest`` and ``highest``.

    Needs class logits. Disagreement is the Jensen-Shannon divergence of the two softmaxes, over
    log 2: 0 for equal ones, 1 for disjoint ones, symmetric. Where the teacher itself misses the
    label, what it would say of a distorted image is not worth more passes: there it is ``lowest``.

    Args:
        student_logits: ``(N, C)``.
        teacher_logits: ``(N, C)``.
        labels: integer ``(N,)``, if known.
        lowest: strength at full agreement.
        highest: strength at none.
        ignore_index: the label of a sample without one; its teacher is taken to be right.

    Raises ValueError for unlike shapes and bounds in the wrong order.

    Ours, not from a paper; a sample's strength is the last pass's disagreement over it.
    """
    if student_logits.shape != teacher_logits.shape or student_logits.ndim != 2:
        found, expected = tuple(student_logits.shape), tuple(teacher_logits.shape)
        raise ValueError(f"logits are compared class by class, not {found} with {expected}")
    if not 0 <= lowest <= highest:
        raise ValueError(f"strengths go from 0 up, not from {lowest:g} to {highest:g}")
    log_p, log_q = (F.log_softmax(wide(x), dim=-1) for x in (student_logits, teacher_logits))
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    both = [F.kl_div(log_m, log_x, reduction="none", log_target=True) for log_x in (log_p, log_q)]
    disagreement = (torch.stack(both).mean(0).sum(-1) / math.log(2)).clamp(0, 1)
    if labels is not None:
        misled = (teacher_logits.argmax(1) != labels) & (labels != ignore_index)
        disagreement = disagreement.masked_fill(misled, 0.0)
    return lowest + (highest - lowest) * disagreement
