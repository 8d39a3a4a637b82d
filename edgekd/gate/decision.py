"""When a gate has seen enough, and what it concludes.

A gate looks at its values several times, after 8, 12, 17, ... processes, and stops at the first
look that decides. Looking often would find a regression by luck sooner or later, so the looks share
one allowance for error (the union bound; Pocock's idea of group-sequential tests, Biometrika 64(2),
1977, with shares that an exact test of so few values can use). All looks together call a model
that is exactly at the limit a regression with a probability of at most ``ERROR``, and pass it with
at most ``ERROR``. A model away from the limit is misjudged far more rarely: benchmarks/gate.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from edgekd.bench.signed_rank import Bounds, bounds

Verdict = Literal["pass", "regression", "improvement", "inconclusive"]

ERROR = 0.01
LOOKS = (8, 12, 17, 24, 34, 48)
FEWEST = 7  # processes that can decide anything: 1 / 2**7 is below ERROR, 1 / 2**6 is not
_FIRST = 2.0 ** -LOOKS[0]  # all values of the first look on one side: the least it can spend
_LATER = (ERROR - _FIRST) / (len(LOOKS) - 1)


class Decision(NamedTuple):
    """A verdict, and the centre and bounds of the log ratios that it rests on."""

    verdict: Verdict
    bounds: Bounds
    error: float  # of each bound, which is that look's share


def decide(log_ratios: Sequence[float], limit: float, *, last: bool) -> Decision | None:
    """Look at the log ratios, candidate to baseline, of the processes so far.

    ``limit`` is the largest allowed log ratio. Returns None when more processes are needed: between
    looks, or when a look does not decide. ``last`` says that there will be no more, and spends what
    is left of the allowance. Raises ValueError without log ratios.
    """
    count = len(log_ratios)
    if not last and count not in LOOKS:
        return None
    error = _share(count, last)
    found = bounds(log_ratios, error)
    verdict = verdict_of(found, limit)
    if verdict == "inconclusive" and not (last or count >= LOOKS[-1]):
        return None
    return Decision(verdict, found, error)


def _share(count: int, last: bool) -> float:
    """Return what a look may spend of the allowance."""
    if last:
        spent = sum(_planned(look) for look in LOOKS if look < count)
        return ERROR - spent
    return _planned(count)


def _planned(look: int) -> float:
    return _FIRST if look == LOOKS[0] else _LATER


def verdict_of(found: Bounds, limit: float) -> Verdict:
    """Return on which side of the limit, and of no change at all, both bounds lie."""
    if found.low > limit:
        return "regression"
    if found.high < 0:
        return "improvement"
    return "pass" if found.high < limit else "inconclusive"
