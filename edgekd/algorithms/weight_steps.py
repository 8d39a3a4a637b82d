"""The step sizes of weights: rows of values in, one step for each row out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.algorithms.fake_quant import quantize_dequantize

_TINY = 1e-30  # below this, products of two float32 steps underflow


def widest_steps(rows: Tensor, qmax: int) -> Tensor:
    """Return for each row of ``rows`` ``(R, N)`` the step that puts its widest value on ``qmax``.

    A row of zeros has no range: any step represents it. But biases are stored in steps of (input
    step * weight step), so it takes the step of the widest row.
    """
    largest = rows.abs().amax(1)
    widest = largest.max() if largest.max() > _TINY else torch.ones(())
    return torch.where(largest > _TINY, largest, widest) / qmax


def clipped_steps(rows: Tensor, qmax: int, candidates: int = 80) -> Tensor:
    """Return for each row the step with the least squared error of rounding and clipping.

    The step of ``widest_steps`` is shrunk in ``candidates`` steps down to a fifth. (Banner et al.,
    "Post training 4-bit quantization of convolutional networks for rapid-deployment", NeurIPS
    2019, arXiv 1810.05723, section 2, on why to clip; the search is that of ``ranges.mse_range``.)
    """
    widest = widest_steps(rows, qmax)
    best, least = widest.clone(), torch.full_like(widest, torch.inf)
    for factor in torch.linspace(1.0, 0.2, candidates).tolist():
        steps = widest * factor
        found = quantize_dequantize(rows, steps.unsqueeze(1), -qmax, qmax)
        error = (found - rows).square().sum(1)
        best = torch.where(error < least, steps, best)
        least = torch.minimum(error, least)
    return best


def group_inputs(weight: Tensor, size: int) -> Tensor:
    """Return ``weight`` ``(O, I)`` as rows of ``size`` inputs, the last of an output padded with 0.

    The rows ``(O * ceil(I / size), size)`` are in the order of the weight.
    """
    return F.pad(weight, (0, -weight.shape[1] % size)).reshape(-1, size)
