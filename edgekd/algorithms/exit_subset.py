"""Which of the possible exits are worth having."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

from numpy.typing import ArrayLike

from edgekd.algorithms.exit_search import cheapest_for_each, cheapest_thresholds
from edgekd.algorithms.exit_thresholds import CascadeSamples, ExitPoint

_REFINED = 4  # how many subsets get the full search
_TIE = 0.005  # costs so near to each other count as the same: no measurement tells them apart


@dataclass(frozen=True)
class ExitSubset:
    """The exits to keep (positions, rising), the costs with them, and their best point."""

    exits: tuple[int, ...]
    costs: tuple[float, ...]
    point: ExitPoint


def cheapest_subset(
    samples: CascadeSamples,
    costs_of: Callable[[tuple[int, ...]], ArrayLike | None],
    budget: float,
) -> ExitSubset:
    """Return the exits and thresholds of least cost within the budget, out of all 2**e subsets.

    An exit that is left out saves its head and joins two segments. So the costs of a subset are
    asked for: ``costs_of`` takes positions, rising, and returns one cost for each and one for the
    end (as ``CascadeSamples.costs``), or None for a subset that must not be; for ``()`` just the
    latter. Of subsets within 0.5 % of the least cost, one with the fewest exits is taken, and of
    these the cheapest; so it may be the empty one. ``samples.costs`` are not read.
    """
    tried: list[tuple[float, tuple[int, ...], CascadeSamples]] = []
    for size in range(samples.exits + 1):
        for subset in combinations(range(samples.exits), size):
            costs = costs_of(subset)
            if costs is None:
                continue
            kept = samples.at(subset, costs)
            tried.append((cheapest_for_each(kept, [budget])[0].cost, subset, kept))
    tried.sort(key=lambda one: one[0])  # stable: fewer exits stay first
    least_of_size = {len(subset): cost for cost, subset, _ in reversed(tried)}
    found = [
        ExitSubset(subset, tuple(kept.costs.tolist()), cheapest_thresholds(kept, budget))
        for rank, (cost, subset, kept) in enumerate(tried)
        if rank < _REFINED or cost == least_of_size[len(subset)]
    ]
    least = min(one.point.cost for one in found)
    near = [one for one in found if one.point.cost <= least * (1 + _TIE)]
    return min(near, key=lambda one: (len(one.exits), one.point.cost))
