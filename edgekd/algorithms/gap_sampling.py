"""How often to draw samples of each class or domain: more where a student lags its teacher."""

from __future__ import annotations

import torch
from torch import Tensor

NEEDS = frozenset({"classes", "labels"})


@torch.no_grad()
def group_gaps(
    student_scores: Tensor, teacher_scores: Tensor, groups: Tensor, count: int
) -> Tensor:
    """Return how far the teacher's mean score is above the student's, by group: ``(count,)``.

    Args:
        student_scores: ``(N,)``, one a sample, higher is better: 1 if right and else 0, or the
            probability of the label.
        teacher_scores: ``(N,)``, the same measure.
        groups: integer ``(N,)``, the class or domain of each sample, 0 to ``count - 1``; others
            (-1) do not count.
        count: number of groups.

    Groups without samples have the gap 0, and so have those in which the student is better.

    Raises ValueError for unlike shapes.
    """
    if student_scores.shape != teacher_scores.shape or groups.shape != student_scores.shape:
        raise ValueError("gaps need a score of student and teacher and a group for each sample")
    known = (groups >= 0) & (groups < count)
    gaps = (teacher_scores.double() - student_scores.double())[known]
    index = groups[known].long()
    total = torch.zeros(count, dtype=torch.float64, device=groups.device)
    seen = total.scatter_add(0, index, torch.ones_like(gaps))
    return (total.scatter_add(0, index, gaps) / seen.clamp_min(1)).clamp_min(0)


@torch.no_grad()
def group_probabilities(
    gaps: Tensor, *, smoothing: float = 0.5, least: float = 0.5, most: float = 2.0
) -> Tensor:
    """Return how often to draw each group, float64 ``(G,)`` with the sum 1.

    ``smoothing`` parts of the uniform distribution and the rest in proportion to the gaps, then
    bounded to ``least`` and ``most`` times uniform: what the bounds cut is shared out among the
    others in proportion. Uniform where no group has a gap.

    Args:
        gaps: ``(G,)``, 0 and up, from ``group_gaps``.
        smoothing: 0 (gaps alone) to 1 (uniform).
        least: 0 to 1, of the uniform probability.
        most: 1 and up, of the uniform probability.

    Raises ValueError for gaps below 0 or not finite, and for settings out of bounds.

    The form and its defaults are ours, not from a paper.
    """
    if gaps.ndim != 1 or not len(gaps) or not torch.isfinite(gaps).all() or gaps.min() < 0:
        raise ValueError("gaps are numbers from 0 up, one for each group")
    if not (0 <= smoothing <= 1 and 0 <= least <= 1 <= most):
        raise ValueError("smoothing is within 0 and 1, least within 0 and 1, most at least 1")
    count, gaps = len(gaps), gaps.double()
    uniform = torch.full_like(gaps, 1 / count)
    total = gaps.sum()
    raw = uniform if total == 0 else smoothing * uniform + (1 - smoothing) * gaps / total
    return _bounded(raw, least / count, most / count)


@torch.no_grad()
def sample_weights(groups: Tensor, probabilities: Tensor) -> Tensor:
    """Return each sample's probability, float64 ``(N,)`` with the sum 1.

    A group's probability is shared out evenly among its samples. Those without a group (-1) are
    drawn as often as they would be in uniform sampling.

    Args:
        groups: integer ``(N,)``.
        probabilities: ``(G,)``, from ``group_probabilities``; those of groups without samples go to
            the other groups in proportion.

    Raises ValueError without samples, for groups that have no probability, and where all groups
    that have samples have the probability 0.
    """
    if not len(groups) or groups.max() >= len(probabilities):
        raise ValueError(f"samples need one of {len(probabilities)} groups each, or none (-1)")
    known = groups >= 0
    sizes = torch.bincount(groups[known].long(), minlength=len(probabilities))
    weights = torch.full((len(groups),), 1 / len(groups), dtype=torch.float64, device=groups.device)
    if known.any():
        present = probabilities.double() * (sizes > 0)
        if present.sum() <= 0:
            raise ValueError("no group that has samples may be drawn")
        each = present / present.sum() / sizes.clamp_min(1)
        weights[known] = each[groups[known].long()] * (known.sum() / len(groups))
    return weights


def _bounded(raw: Tensor, low: float, high: float) -> Tensor:
    """Return ``clip(f * raw, low, high)`` with the factor f that makes the sum 1.

    The sum rises with f, from ``low * G <= 1`` to ``high * G >= 1``: bisection finds it. Groups of
    probability 0 count as tiny, since no factor could raise them.
    """
    raw = raw.clamp_min(1e-12)
    below, above = 0.0, high / float(raw.min())
    for _ in range(100):
        factor = (below + above) / 2
        if float((factor * raw).clamp(low, high).sum()) < 1:
            below = factor
        else:
            above = factor
    found = (above * raw).clamp(low, high)
    return found / found.sum()
