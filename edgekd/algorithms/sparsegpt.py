"""Pruning with second-order corrections: the weights that stay make up for those that go.

Frantar & Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot",
ICML 2023, arXiv 2301.00774, section 3 and algorithm 1. A layer is ``y = W x`` with ``W`` ``(R, C)``
and ``H = E[x x^T]`` ``(C, C)``. Columns are visited in order; what a column loses is made up for by
the columns behind it, along the inverse of H. Here everything is computed in float64.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from edgekd.algorithms.nm_mask import nm_mask

BLOCK = 128  # columns; corrections are applied to what lies behind a block once for the block
Choose = Callable[[Tensor, int], Tensor]  # (scores of some columns, the first one) -> what stays


def sparsegpt_nm(weight: Tensor, hessian: Tensor, kept: int, group: int) -> tuple[Tensor, Tensor]:
    """Return the corrected weight and which of it stays, ``kept`` in every ``group`` columns.

    Raises ValueError where groups do not fill the columns.
    """

    def choose(scores: Tensor, _: int) -> Tensor:
        return nm_mask(scores, kept, group)

    return _sweep(weight, hessian, choose, step=group, block=BLOCK // group * group or group)


def sparsegpt_unstructured(weight: Tensor, hessian: Tensor, zeros: int) -> tuple[Tensor, Tensor]:
    """Return the corrected weight and which of it stays; exactly ``zeros`` elements go.

    Every block of columns gets its share of the zeros, wherever they cost least in its rows.
    """
    rows, columns = weight.shape

    def choose(scores: Tensor, first: int) -> Tensor:
        last = first + scores.shape[1]
        count = round(zeros * last / columns) - round(zeros * first / columns)
        stays = torch.ones(scores.numel(), dtype=torch.bool, device=scores.device)
        stays[scores.flatten().argsort(stable=True)[:count]] = False
        return stays.reshape(rows, -1)

    return _sweep(weight, hessian, choose, step=BLOCK, block=BLOCK)


def inverse_factor(hessian: Tensor, damping: float = 0.01) -> Tensor:
    """Return the upper triangular U with ``H^-1 = U^T U`` in float64.

    ``damping`` times the mean of the diagonal is added to it, so that inputs which depend on each
    other, or are always zero, do no harm. An H of zeros counts as the identity.
    """
    damped = hessian.double().clone()
    mean = damped.diagonal().mean()
    damped.diagonal().add_(damping * mean if mean > 0 else torch.ones_like(mean))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    found: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return found


def _sweep(
    weight: Tensor, hessian: Tensor, choose: Choose, *, step: int, block: int
) -> tuple[Tensor, Tensor]:
    """Visit the columns in order; every ``step`` columns decide what stays of the next ones."""
    factor = inverse_factor(hessian)
    diagonal = factor.diagonal()
    left = weight.detach().double().clone()
    mask = torch.ones(weight.shape, dtype=torch.bool, device=weight.device)
    for start in range(0, weight.shape[1], block):
        end = min(start + block, weight.shape[1])
        errors = torch.zeros_like(left[:, start:end])
        for column in range(start, end):
            if (column - start) % step == 0:
                ahead = slice(column, min(column + step, end))
                scores = (left[:, ahead] / diagonal[ahead]).square()
                mask[:, ahead] = choose(scores, column)
            kept = left[:, column] * mask[:, column]
            error = (left[:, column] - kept) / diagonal[column]
            left[:, column + 1 : end] -= error.outer(factor[column, column + 1 : end])
            left[:, column], errors[:, column - start] = kept, error
        left[:, end:] -= errors @ factor[start:end, end:]
    return left.to(weight.dtype), mask
