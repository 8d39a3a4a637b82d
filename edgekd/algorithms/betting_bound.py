"""How large the mean of any bounded loss may be, by betting against it.

Source: Waudby-Smith & Ramdas, "Estimating means of bounded random variables by betting" (JRSS-B
2024), sections 3 and 4; used for early exits by Jazbec et al., "Fast yet Safe" (NeurIPS 2024).

A gambler who starts with 1 bets on every sample that its loss is below the limit. If the mean loss
is at least the limit, no way of betting makes a gain expected, so that the wealth ever reaches
1 / delta with probability at most delta (Ville's inequality). What is bet on a sample follows from
those before it: much where the losses hardly vary.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

# The share of what may be bet at most (WSR's c, 1/2 or 3/4 there). One loss of 1 leaves 5 %.
_MOST = 0.95
_BISECTIONS = 40


def betting_p_value(losses: ArrayLike, limit: float, delta: float) -> NDArray[np.float64]:
    """Return p-values of "the mean loss is at least ``limit``", one for each row of losses.

    They are valid at every level; the bets are sized for a test at the level ``delta``.

    Args:
        losses: ``(..., n)`` in [-1, 1], n independent samples on the last axis. Their order must
            not depend on the losses: the caller shuffles where it might.
        limit: in [-1, 1).
        delta: in (0, 1).

    Raises ValueError for losses outside of [-1, 1].
    """
    shares = _shares(losses)
    least = -_most_log_wealth(shares, _bets(shares, delta), np.asarray((limit + 1) / 2))
    return np.exp(np.minimum(least, 0.0))


def betting_upper_bound(losses: ArrayLike, delta: float) -> NDArray[np.float64]:
    """Return what the mean loss exceeds with probability at most ``delta``, one for each row.

    It is the least limit that ``betting_p_value`` rejects at ``delta``. The wealth rises with the
    limit, so bisection finds it. Arguments and errors as there.
    """
    shares = _shares(losses)
    bets = _bets(shares, delta)
    low, high = np.zeros(shares.shape[:-1]), np.ones(shares.shape[:-1])
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        enough = _most_log_wealth(shares, bets, middle) >= -math.log(delta)
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    # Never below the mean, which the best of luck on the way could suggest.
    bound: NDArray[np.float64] = np.maximum(high, shares.mean(axis=-1)) * 2 - 1
    return bound


def _shares(losses: ArrayLike) -> NDArray[np.float64]:
    """Map losses from [-1, 1] to [0, 1]."""
    values = np.asarray(losses, np.float64)
    if values.ndim < 1 or values.shape[-1] < 1 or not (np.abs(values) <= 1).all():
        raise ValueError("losses need at least one sample and lie in [-1, 1]")
    shares: NDArray[np.float64] = (values + 1) / 2
    return shares


def _bets(shares: NDArray[np.float64], delta: float) -> NDArray[np.float64]:
    """Return the bets: sqrt(2 ln(1 / delta) / (n variance)), the variance of the samples before."""
    n = shares.shape[-1]
    count = np.arange(1, n + 1)
    means = (0.5 + np.cumsum(shares, axis=-1)) / (count + 1)
    variances = (0.25 + np.cumsum((shares - means) ** 2, axis=-1)) / (count + 1)
    before = np.concatenate([np.full((*shares.shape[:-1], 1), 0.25), variances[..., :-1]], axis=-1)
    bets: NDArray[np.float64] = np.sqrt(-2 * math.log(delta) / (n * before))
    return bets


def _most_log_wealth(
    shares: NDArray[np.float64], bets: NDArray[np.float64], limit: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the logarithm of the most that the gambler ever has."""
    mean = limit[..., None]
    capped = np.minimum(bets, _MOST / np.maximum(1 - mean, 1e-12))
    wealth = np.cumsum(np.log1p(-capped * (shares - mean)), axis=-1)
    most: NDArray[np.float64] = wealth.max(axis=-1)
    return most
