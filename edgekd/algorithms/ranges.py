"""From the values that a tensor takes to the range that its quantizer covers.

All functions work on a histogram: ``counts[i]`` values fell into the bin that spans
``edges[i]`` to ``edges[i + 1]``. Ranges always include zero, so that zero (padding, ReLU) is
represented without error.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

Method = Literal["minmax", "percentile", "mse", "entropy"]
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


def entropy_range(
    counts: Floats, edges: Floats, levels: int, *, symmetric: bool, candidates: int = 128
) -> tuple[float, float]:
    """Return the range whose quantized distribution is closest to the real one.

    As the entropy calibrator of TensorRT does it (Migacz, "8-bit Inference with TensorRT", NVIDIA
    GTC 2017): of all ranges that end on a bin, the one with the least KL divergence between the
    histogram clipped to the range and the same histogram merged into ``levels`` levels. A
    symmetric range is searched on magnitudes, with half of the levels; a range of two sides keeps
    the ratio of its sides.
    """
    lo, hi = minmax_range(counts, edges)
    if hi == lo:
        return lo, hi
    if symmetric:
        lo, hi, levels = 0.0, max(-lo, hi), levels // 2
    counts, width = _rebin(counts, edges, lo, hi, magnitudes=symmetric)
    zero = round(-lo / width)  # bins below zero
    # Zero is exact in every range. Left in, the many zeros behind a ReLU would look spread over
    # the first level, the more the wider the range is.
    counts[max(0, zero - 1) : zero + 1] = 0.0
    best, best_divergence = (lo, hi), np.inf
    for share in np.linspace(1.0, min(1.0, levels / len(counts)), candidates):
        start, end = zero - round(zero * share), zero + round((len(counts) - zero) * share)
        divergence = _divergence(counts, start, end, levels)
        if divergence < best_divergence:
            best, best_divergence = ((start - zero) * width, (end - zero) * width), divergence
    return (-best[1], best[1]) if symmetric else best


def _rebin(
    counts: Floats, edges: Floats, lo: float, hi: float, *, magnitudes: bool
) -> tuple[Floats, float]:
    """Return the histogram on bins of equal width from ``lo`` to ``hi``, and that width."""
    centres = (edges[:-1] + edges[1:]) / 2.0
    if magnitudes:
        centres = np.abs(centres)
    bins = max(1, min(len(counts), round((hi - lo) / float(edges[1] - edges[0]))))
    found, _ = np.histogram(centres, bins, (lo, hi), weights=counts)
    return found.astype(np.float64), (hi - lo) / bins


def _divergence(counts: Floats, start: int, end: int, levels: int) -> float:
    """Return KL(clipped histogram || quantized histogram) for the bins from start to end.

    What lies outside is added to the outermost bins that hold values: in an empty bin the
    divergence would be infinite, and where the values are sparse most ranges end on such a bin.
    """
    inside = counts[start:end]
    filled = inside > 0
    if not filled.any():
        return np.inf
    level = np.arange(len(inside)) * levels // len(inside)
    means = np.bincount(level, inside) / np.maximum(np.bincount(level, filled), 1)
    clipped, quantized = inside[filled], means[level][filled]
    clipped[0] += counts[:start].sum()
    clipped[-1] += counts[end:].sum()
    p, q = clipped / clipped.sum(), quantized / quantized.sum()
    return float(np.dot(p, np.log(p / q)))


def choose_range(
    counts: Floats, edges: Floats, *, method: Method, levels: int, symmetric: bool
) -> tuple[float, float]:
    """Return (lo, hi) by ``method``; see the functions above."""
    if method == "minmax":
        return minmax_range(counts, edges)
    if method == "percentile":
        return percentile_range(counts, edges)
    if method == "entropy":
        return entropy_range(counts, edges, levels, symmetric=symmetric)
    return mse_range(counts, edges, levels, symmetric=symmetric)


def is_zero(lo: float, hi: float) -> bool:
    """Tell whether a range has no width that float32 can divide by, as that of a dead layer."""
    return not max(-lo, hi, 0.0) / 255 > np.finfo(np.float32).tiny


def affine_parameters(lo: float, hi: float, qmin: int, qmax: int) -> tuple[float, int]:
    """Return the (scale, zero_point) that map [lo, hi] onto [qmin, qmax] with zero exact.

    A range of zero width (a dead layer) gives scale 1: every value is then exactly zero.
    """
    lo, hi = min(lo, 0.0), max(hi, 0.0)
    scale = float(np.float32((hi - lo) / (qmax - qmin)))
    if is_zero(lo, hi):
        return 1.0, int(np.clip(0, qmin, qmax))
    return scale, int(np.clip(round(qmin - lo / scale), qmin, qmax))


def symmetric_parameters(lo: float, hi: float, qmax: int) -> tuple[float, int]:
    """Return the (scale, 0) that map [-m, m] onto [-qmax, qmax] with m = max(|lo|, |hi|)."""
    scale = float(np.float32(max(-lo, hi, 0.0) / qmax))
    return (1.0, 0) if is_zero(lo, hi) else (scale, 0)
