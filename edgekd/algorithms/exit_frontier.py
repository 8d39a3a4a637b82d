"""What early exits can be had for: points from "nothing leaves" to "all leave at the first"."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekd.algorithms.exit_search import cheapest_for_each
from edgekd.algorithms.exit_thresholds import (
    CascadeSamples,
    ExitPoint,
    Thresholds,
    leave_at,
    outcome,
)

_STEPS = 20
_CAUTIOUS = (0.125, 0.25, 0.5, 0.75)  # of those that leave without any loss


def frontier(samples: CascadeSamples, budgets: Sequence[float] | None = None) -> list[ExitPoint]:
    """Return points of falling cost, from the most conservative to the most aggressive.

    The first is "nothing leaves". Then come points at which an eighth, a quarter, half and three
    quarters leave of those that leave at the budget 0, the surest of each exit: chosen thresholds
    fit the samples that they were chosen on, so that a loss of 0 there is more elsewhere. Then the
    cheapest point for each of the budgets (shares, rising). Without ``budgets`` these are spaced
    quadratically up to the loss of "all leave at the first", which is then the last point. Points
    that cost as much as the one before are left out.
    """
    never = outcome(samples, (None,) * samples.exits)
    if not samples.exits:
        return [never]
    ends = budgets is None
    if budgets is None:
        most = max(float(samples.losses.mean(axis=0).max()), 0.0)
        budgets = [most * (step / _STEPS) ** 2 for step in range(_STEPS + 1)]
    found = cheapest_for_each(samples, [0.0, *budgets])
    cautious = [outcome(samples, _surest(samples, found[0].thresholds, s)) for s in _CAUTIOUS]
    last = [outcome(samples, (0.0,) * samples.exits)] if ends else []
    points = [never]
    for point in [*cautious, *found, *last]:
        if point.cost < points[-1].cost - 1e-12:
            points.append(point)
    return points


def _surest(samples: CascadeSamples, thresholds: Thresholds, share: float) -> Thresholds:
    """Raise each threshold so far that only the surest ``share`` of its leavers still leave."""
    ends = leave_at(samples.confidences, thresholds)
    raised: list[float | None] = []
    for exit_, threshold in enumerate(thresholds):
        sure = np.sort(samples.confidences[ends == exit_, exit_])[::-1]
        keep = int(share * len(sure))
        raised.append(float(sure[keep]) if keep and threshold is not None else None)
    return tuple(raised)
