"""Distillation of maps at several sizes at once: their pixels, and the means of coarser grids."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from edgekd.algorithms.precision import wide

NEEDS = frozenset({"maps"})
GRIDS = (4, 2, 1)


def context_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the weighted mean of squared errors of the maps and their pooled copies; a scalar.

    ``(MSE(s, t) + sum_l c_l MSE(pool_l(s), pool_l(t))) / (1 + sum c_l)`` with pooling to 4 x 4,
    2 x 2 and 1 x 1 places, as far as they are fewer than the map has in height, and weights 1/2,
    1/4, 1/8 in the order in which they occur.

    Args:
        student: ``(N, C, H, W)``.
        teacher: the same shape; no gradient flows into it.

    Raises ValueError for unlike shapes.

    Source: the hierarchical context loss (HCL) of Chen et al., "Distilling Knowledge via Knowledge
    Review", CVPR 2021, arXiv 2104.09044, with the constants of TransKD's released code.
    """
    if student.shape != teacher.shape or student.ndim != 4:
        found, expected = tuple(student.shape), tuple(teacher.shape)
        raise ValueError(f"maps are compared place by place, not {found} with {expected}")
    student, teacher = wide(student), wide(teacher.detach())
    total, weights, weight = F.mse_loss(student, teacher), 1.0, 1.0
    for grid in GRIDS:
        if grid < student.shape[2]:
            weight /= 2
            weights += weight
            coarse = F.adaptive_avg_pool2d(student - teacher, grid)  # pooling is linear
            total = total + weight * coarse.square().mean()
    return total / weights
