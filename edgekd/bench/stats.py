"""The arithmetic of a duet. Pure functions of samples; times are in any one unit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Samples = Sequence[Sequence[float]] | npt.NDArray[Any]
"""Positive times, one row of rounds for every process: ``(processes, rounds)``."""


@dataclass(frozen=True)
class SpeedUp:
    """How many times faster than the baseline, and the lowest and highest process's own value."""

    ratio: float
    low: float
    high: float


def speed_up(baseline: Samples, other: Samples) -> SpeedUp:
    """Return baseline time / other time from samples that were taken in pairs.

    Within a process the median over rounds of the paired log ratios drops what disturbs single
    calls; the median over processes drops what makes a whole process lucky. ``low`` and ``high``
    are the range of the process values: an honest interval for so few of them, see ``coverage``.
    """
    logs = process_log_ratios(baseline, other)
    ratio, low, high = np.exp([np.median(logs), logs.min(), logs.max()])
    return SpeedUp(float(ratio), float(low), float(high))


def process_log_ratios(baseline: Samples, other: Samples) -> npt.NDArray[np.float64]:
    """Return ``(processes,)``: for each process the median over rounds of log(baseline/other).

    Raises ValueError when the two are not samples of the same processes and rounds.
    """
    base, time = np.asarray(baseline, np.float64), np.asarray(other, np.float64)
    if base.shape != time.shape or base.ndim != 2 or base.size == 0:
        raise ValueError(
            f"paired samples need one (processes, rounds), not {base.shape}, {time.shape}"
        )
    logs: npt.NDArray[np.float64] = np.median(np.log(base) - np.log(time), axis=1)
    return logs


def coverage(processes: int) -> float:
    """Return how often the range of so many process values holds the true median.

    An order statistic: the range misses only when all values fall on one side of the median,
    which for independent processes has probability 2 * 0.5**processes.
    """
    return 1.0 - 2.0 * 0.5**processes if processes > 1 else 0.0


def median_of_processes(samples: Samples) -> float:
    """Return the median over processes of the median over rounds."""
    return float(np.median(np.median(np.asarray(samples, np.float64), axis=1)))


def percentile(samples: Sequence[float], q: float) -> float | None:
    """Return the ``q``-th percentile (0 to 100), or None when too few samples carry it.

    A tail needs one sample beyond it: p90 (and p10) takes 10 samples, p99 takes 100, p99.9 takes
    1000. Raises ValueError for ``q`` outside 0 to 100.
    """
    if not 0 <= q <= 100:
        raise ValueError(f"a percentile is between 0 and 100, not {q}")
    tail = min(q, 100 - q) / 100
    # The rounding takes back what binary fractions add: 1 / ((100 - 99.9) / 100) is above 1000.
    if tail == 0 or len(samples) < math.ceil(round(1 / tail, 6)):
        return None
    return float(np.percentile(np.asarray(samples, np.float64), q))
