"""The centre of a few measured values and exact bounds on it, without assuming a distribution.

Wilcoxon's signed-rank test, inverted (Hollander, Wolfe and Chicken, "Nonparametric Statistical
Methods", 3rd ed., 2014, sections 3.1 to 3.3). It takes the values to be independent and symmetric
about their centre, and nothing else. A single wild value can move a bound only so far.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt


class Bounds(NamedTuple):
    """A centre, and one-sided bounds below and above it; infinite where values are too few."""

    centre: float
    low: float
    high: float


def bounds(values: Sequence[float], error: float) -> Bounds:
    """Return the Hodges-Lehmann centre of ``values`` with a lower and an upper bound.

    Each bound alone is wrong with a probability of at most ``error``, exactly, for any number of
    values. Raises ValueError when there are none.
    """
    averages = walsh_averages(values)
    rank = critical_rank(len(values), error)
    centre = float(np.median(averages))
    if rank == 0:
        return Bounds(centre, -math.inf, math.inf)
    return Bounds(centre, float(averages[rank - 1]), float(averages[-rank]))


def walsh_averages(values: Sequence[float]) -> npt.NDArray[np.float64]:
    """Return the means of all pairs of values, each with itself too, in ascending order.

    Raises ValueError when there are no values.
    """
    array: npt.NDArray[Any] = np.asarray(values, np.float64)
    if array.size == 0:
        raise ValueError("no values to average")
    first, second = np.triu_indices(array.size)
    return np.sort((array[first] + array[second]) / 2)


@lru_cache(maxsize=1024)
def critical_rank(count: int, error: float) -> int:
    """Return which Walsh average from below bounds the centre: the 1st, 2nd, ...; 0 for none.

    The ``k``-th smallest is above the centre only if the signed-rank statistic is below ``k``, so
    the answer is the largest ``k`` with ``P(statistic <= k - 1) <= error``.
    """
    probability = 0.0
    for k, ways in enumerate(_ways(count)):
        probability += ways / 2.0**count
        if probability > error:
            return k
    return 0  # pragma: no cover - the probabilities add up to 1


@lru_cache(maxsize=1024)
def _ways(count: int) -> tuple[int, ...]:
    """Return for each value of the statistic the number of sign patterns that give it."""
    ways = [1]
    for rank in range(1, count + 1):
        ways = [
            (ways[total] if total < len(ways) else 0)
            + (ways[total - rank] if 0 <= total - rank < len(ways) else 0)
            for total in range(len(ways) + rank)
        ]
    return tuple(ways)
