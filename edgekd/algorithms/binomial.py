"""The exact test of a rate: how often something happened, against how often it may."""

from __future__ import annotations

import math

import numpy as np


def binomial_tail(count: int, n: int, rate: float) -> float:
    """Return P(X <= count) of X ~ Binomial(n, rate): the p-value of "the rate is at least this".

    The probabilities follow from each other, in logarithms, so that none underflows.
    """
    if count < 0:
        return 0.0
    if count >= n or rate <= 0:
        return 1.0
    if rate >= 1:
        return 0.0
    k = np.arange(1, count + 1)
    steps = np.log((n - k + 1) / k) + (math.log(rate) - math.log1p(-rate))
    logs = np.concatenate(([0.0], np.cumsum(steps))) + n * math.log1p(-rate)
    peak = float(logs.max())
    return min(1.0, math.exp(peak) * float(np.exp(logs - peak).sum()))
