"""N:M sparsity: of every M weights in a row, N stay."""

from __future__ import annotations

import torch
from torch import Tensor


def nm_mask(scores: Tensor, kept: int, group: int) -> Tensor:
    """Return which weights stay: the ``kept`` highest scores of every ``group`` along axis 1.

    Groups lie along the inputs, for a convolution at each place of its kernel: that is where
    NVIDIA's sparse tensor cores, and TensorRT for a kernel in KCRS order, look for them. (Mishra
    et al., "Accelerating Sparse Deep Neural Networks", arXiv 2104.08378, section 3.)

    Args:
        scores: ``(O, I, ..)``, for magnitude pruning ``weight.abs()``; I a multiple of ``group``.
        kept: N, from 1 to ``group``.
        group: M.

    Returns a bool tensor of the same shape with exactly ``kept`` True in every group. Of equal
    scores the first stays. Raises ValueError where groups do not fill axis 1.
    """
    if not 1 <= kept <= group or scores.shape[1] % group:
        raise ValueError(f"groups of {group} with {kept} kept do not fit {tuple(scores.shape)}")
    rows = scores.movedim(1, -1)
    grouped = rows.reshape(*rows.shape[:-1], -1, group)
    order = grouped.argsort(dim=-1, descending=True, stable=True)
    mask = torch.zeros(grouped.shape, dtype=torch.bool, device=scores.device)
    mask.scatter_(-1, order[..., :kept], True)
    return mask.reshape(rows.shape).movedim(-1, 1).contiguous()
