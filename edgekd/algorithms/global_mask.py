"""Sparsity that is shared out over several tensors: the lowest scores of all go, wherever they are.

Zhu & Gupta, "To prune, or not to prune", arXiv 1710.01878, section 3, prune by magnitude within
each layer; to compare magnitudes across layers is the global form (Han et al., arXiv 1506.02626,
prune by a threshold; Blalock et al., arXiv 2003.03033, section 2.3, on both).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

LEAST_SHARE = 0.02  # of a tensor stays in any case: an emptied layer cuts the network in two


def unstructured_masks(
    scores: Sequence[Tensor], sparsity: float, least_share: float = LEAST_SHARE
) -> list[Tensor]:
    """Return which weights stay, for each of ``scores``.

    Args:
        scores: tensors of any shape, for magnitude pruning ``weight.abs()``.
        sparsity: share of all elements that goes, 0 to 1.
        least_share: of each tensor the highest scores up to this share stay, at least one.

    Returns bool tensors of the same shapes. Together exactly ``round(sparsity * elements)`` are
    False, or as many as ``least_share`` leaves. Of equal scores the earlier ones stay.
    """
    flat = [tensor.flatten() for tensor in scores]
    zeros = round(sparsity * sum(len(one) for one in flat))
    safe = [_highest(one, max(1, math.floor(least_share * len(one)))) for one in flat]
    values = torch.cat(flat).double()
    values = values.masked_fill(torch.cat(safe), math.inf)
    # The sort is stable: of equal scores, those that stand last go first.
    order = len(values) - 1 - values.flip(0).argsort(stable=True)
    candidates = len(values) - sum(int(one.sum()) for one in safe)
    mask = torch.ones(len(values), dtype=torch.bool, device=values.device)
    mask[order[: min(zeros, candidates)]] = False
    parts = torch.split(mask, [len(one) for one in flat])
    return [part.reshape(tensor.shape) for part, tensor in zip(parts, scores, strict=True)]


def block_masks(
    scores: Sequence[Tensor],
    sparsity: float,
    block: tuple[int, int],
    least_share: float = LEAST_SHARE,
) -> list[Tensor]:
    """Return which weights stay where whole blocks go, by the mean score of each block.

    Args:
        scores: tensors ``(O, I, ..)``; O and I multiples of the block's sides.
        sparsity: share of all blocks that goes.
        block: outputs and inputs of a block; at each place of a kernel blocks are separate.
        least_share: as for ``unstructured_masks``, in blocks.

    Raises ValueError where blocks do not fill a tensor.
    """
    folded = [_by_block(tensor, block).mean(-1) for tensor in scores]
    masks = unstructured_masks(folded, sparsity, least_share)
    return [_spread(mask, block, tensor) for mask, tensor in zip(masks, scores, strict=True)]


def _highest(values: Tensor, count: int) -> Tensor:
    mask = torch.zeros(len(values), dtype=torch.bool, device=values.device)
    mask[values.argsort(descending=True, stable=True)[:count]] = True
    return mask


def _by_block(tensor: Tensor, block: tuple[int, int]) -> Tensor:
    """Return ``(O / a, I / b, .., a * b)``."""
    (outputs, inputs), (a, b) = tensor.shape[:2], block
    if outputs % a or inputs % b:
        raise ValueError(f"blocks of {a} x {b} do not fill {tuple(tensor.shape)}")
    split = tensor.reshape(outputs // a, a, inputs // b, b, *tensor.shape[2:])
    return split.movedim((1, 3), (-2, -1)).flatten(-2)


def _spread(mask: Tensor, block: tuple[int, int], like: Tensor) -> Tensor:
    wide = mask.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
    return wide.reshape(like.shape)
