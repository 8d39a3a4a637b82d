"""The one number that makes a classifier's probabilities fit how often it is right.

Source: Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017), section 4.2.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

LOWEST, HIGHEST = 0.05, 20.0
_SECTIONS = 40  # of the golden section: leaves 6.0 * 0.618 ** 40 < 3e-8 of log T


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Return the T in [0.05, 20] with the least mean negative log likelihood of ``logits / T``.

    The likelihood is convex in 1 / T, so it has one minimum along log T, and a golden section
    finds it. Logits that separate all samples would have T go to 0; then the lower bound, or 1
    where the likelihood is as good already, keeps the answer usable. It is also 1 where T makes no
    difference.

    Args:
        logits: ``(n, k)``, n >= 1 and k >= 2, finite.
        labels: ``(n,)``, the right class of each sample.

    Raises ValueError for shapes that do not fit, logits that are not finite and unknown classes.
    """
    scores = np.asarray(logits, np.float64)
    if scores.ndim != 2 or scores.shape[0] < 1 or scores.shape[1] < 2:
        raise ValueError(f"logits need the shape (n, k) with k >= 2, not {scores.shape}")
    right = np.asarray(labels)
    if right.shape != scores.shape[:1] or right.min() < 0 or right.max() >= scores.shape[1]:
        raise ValueError("labels need one class in [0, k) for each row of logits")
    if not np.isfinite(scores).all():
        raise ValueError("logits are not finite")
    # Only differences to the right class count: NLL = log sum exp((z - z_right) / T).
    above = scores - scores[np.arange(len(scores)), right][:, None]

    def loss(log_temperature: float) -> float:
        scaled = above / math.exp(log_temperature)
        peak = scaled.max(axis=1)
        sums = np.exp(scaled - peak[:, None]).sum(axis=1)
        return float((peak + np.log(sums)).mean())

    golden = (math.sqrt(5) - 1) / 2
    low, high = math.log(LOWEST), math.log(HIGHEST)
    left, right_end = high - golden * (high - low), low + golden * (high - low)
    at_left, at_right = loss(left), loss(right_end)
    for _ in range(_SECTIONS):
        if at_left <= at_right:
            high, right_end, at_right = right_end, left, at_left
            left = high - golden * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right_end, at_right
            right_end = low + golden * (high - low)
            at_right = loss(right_end)
    found = (low + high) / 2
    return math.exp(found) if loss(found) < loss(0.0) - 1e-9 else 1.0
