"""From the values that a tensor takes to the range that its quantizer covers.

All functions work on a histogram: ``counts[i]`` values fell into the bin that spans
``edges[i]`` to ``edges[i + 1]``. Ranges always include zero, so that zero (padding, ReLU) is
represented without error.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

Method = Literal["minmax", "percentile", "mse"]
Floats = npt.NDArray[np.float64]


def minmax_range(counts: Floats, edges: Floats) -> tuple[float, float]:
    """Return the smallest and largest value seen, widened to include zero."""
    filled = np.flatnonzero(counts)
    if filled.size == 0:
        return 0.0, 0.0
    return min(0.0, float(edges[filled[0]])), max(0.0, float(edges[filled[-1] + 1]))


def percentile_range(counts: Floats, edges: Floats, percent: float = 99.99) -> tuple[float, float]:
    """Return the range that holds the central ``percent`` of the values, including zero."""
    total = counts.sum()
    if total == 0:
        return 0.0, 0.0
    tail = (1.0 - percent / 100.0) / 2.0 * total
    cumulative = np.cumsum(counts)
    low = int(np.searchsorted(cumulative, tail, side="right"))
    high = int(np.searchsorted(cumulative, total - tail, side="left"))
    return min(0.0, float(edges[low])), max(0.0, float(edges[min(high, len(counts) - 1) + 1]))


def mse_range(
    counts: Floats, edges: Floats, levels: int, *, symmetric: bool, candidates: int = 80
) -> tuple[float, float]:
    """Return the range with the least expected squared quantization error.

    The min-max range is shrunk in ``candidates`` steps down to a fifth, and the error of uniform
    quantization with ``levels`` levels is summed over the bin centres. (The search of TensorRT's
    and BRECQ's observers; Li et al., ICLR 2021, arXiv 2102.05426, appendix.)
    """
    lo, hi = minmax_range(counts, edges)
    if hi == lo:
        return lo, hi
    if symmetric:
        lo, hi = -max(-lo, hi), max(-lo, hi)
    centres = (edges[:-1] + edges[1:]) / 2.0
    best, best_error = (lo, hi), np.inf
    for factor in np.linspace(1.0, 0.2, candidates):
        low, high = lo * factor, hi * factor
        step = (high - low) / (levels - 1)
        # Rounding on the grid that contains zero, as the real quantizer does.
        quantized = np.clip(np.round(centres / step), np.round(low / step), np.round(high / step))
        error = float(np.dot(counts, (quantized * step - centres) ** 2))
        if error < best_error:
            best, best_error = (float(low), float(high)), error
    return best


def choose_range(
    counts: Floats, edges: Floats, *, method: Method, levels: int, symmetric: bool
) -> tuple[float, float]:
    """Return (lo, hi) by ``method``; see the functions above."""
    if method == "minmax":
        return minmax_range(counts, edges)
    if method == "percentile":
        return percentile_range(counts, edges)
    return mse_range(counts, edges, levels, symmetric=symmetric)


def affine_parameters(lo: float, hi: float, qmin: int, qmax: int) -> tuple[float, int]:
    """Return the (scale, zero_point) that map [lo, hi] onto [qmin, qmax] with zero exact.

    A range of zero width (a dead layer) gives scale 1: every value is then exactly zero.
    """
    lo, hi = min(lo, 0.0), max(hi, 0.0)
    scale = float(np.float32((hi - lo) / (qmax - qmin)))
    if not scale > np.finfo(np.float32).tiny:
        return 1.0, int(np.clip(0, qmin, qmax))
    return scale, int(np.clip(round(qmin - lo / scale), qmin, qmax))


def symmetric_parameters(lo: float, hi: float, qmax: int) -> tuple[float, int]:
    """Return the (scale, 0) that map [-m, m] onto [-qmax, qmax] with m = max(|lo|, |hi|)."""
    scale = float(np.float32(max(-lo, hi, 0.0) / qmax))
    return (scale, 0) if scale > np.finfo(np.float32).tiny else (1.0, 0)
