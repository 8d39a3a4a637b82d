"""Distillation of an intermediate feature, value by value."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from edgekd.algorithms.feature_shapes import at_the_smaller_size
from edgekd.algorithms.precision import wide

NEEDS = frozenset({"pooled"})  # any feature of a sample does: a vector, tokens or a map


def hint_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the squared error of two features, mean over everything.

    Needs features with equal channels (a ``Projector`` makes them so). Maps of unlike sizes are
    both averaged to the smaller one.

    Args:
        student: ``(N, C, H, W)``, ``(N, T, C)`` or ``(N, C)``.
        teacher: as many axes, N, C and T equal; no gradient flows into it.

    Raises ValueError where the shapes do not fit.

    Source: Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, arXiv 1412.6550,
    equation 3, which has half of the sum over a sample. With the mean the weight does not depend
    on the feature's size; Tian et al., ICLR 2020, arXiv 1910.10699, give it 100 in their
    comparison (released script).
    """
    student, teacher = wide(student), wide(teacher.detach())
    if student.ndim == teacher.ndim == 4:
        student, teacher = at_the_smaller_size(student, teacher)
    if student.shape != teacher.shape:
        found, expected = tuple(student.shape), tuple(teacher.shape)
        raise ValueError(f"a hint compares equal shapes, not {found} with {expected}")
    return F.mse_loss(student, teacher)
