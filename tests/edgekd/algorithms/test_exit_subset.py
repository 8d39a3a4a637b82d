"""Which exits are kept."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from cascades import draw

from edgekd.algorithms.exit_search import cheapest_thresholds
from edgekd.algorithms.exit_subset import cheapest_subset


def costs_with(head: float, exits: int = 3) -> object:
    """Return the costs of a subset: 1 for each block of the backbone, ``head`` for each exit."""

    def costs_of(subset: tuple[int, ...]) -> np.ndarray:
        ends = [*subset, exits]
        heads = [head * min(rank + 1, len(subset)) for rank in range(len(ends))]
        return np.array([end + 1 for end in ends]) + heads

    return costs_of


@pytest.mark.parametrize("head", [0.02, 0.2, 0.6])
def test_equals_trying_all(head: float) -> None:
    samples, costs_of = draw(800, 1, exits=3), costs_with(head)

    found = cheapest_subset(samples, costs_of, 0.01)

    least = min(
        cheapest_thresholds(samples.at(subset, costs_of(subset)), 0.01).cost
        for size in range(4)
        for subset in combinations(range(3), size)
    )
    assert least <= found.point.cost <= least * 1.005
    assert found.costs == tuple(costs_of(found.exits))
    assert len(found.point.thresholds) == len(found.exits)


def test_heads_that_cost_more_are_fewer_and_at_last_none() -> None:
    samples = draw(800, 1, exits=3)
    kept = [len(cheapest_subset(samples, costs_with(h), 0.01).exits) for h in (0, 0.2, 0.6, 5)]

    assert kept == sorted(kept, reverse=True)
    assert kept[0] >= 2 and kept[-1] == 0


def test_of_equal_ones_the_smaller_is_taken() -> None:
    one = draw(400, 0, exits=1)
    twice = one.at((0, 0), np.array([1, 1, 3]))

    found = cheapest_subset(twice, lambda subset: [1] * len(subset) + [3], 0.01)

    assert len(found.exits) == 1
    assert found.point.cost < 3


def test_a_subset_without_costs_is_not_taken() -> None:
    samples, costs_of = draw(800, 1, exits=3), costs_with(0.02)
    free = cheapest_subset(samples, costs_of, 0.01)

    found = cheapest_subset(samples, lambda s: None if len(s) > 1 else costs_of(s), 0.01)

    assert len(free.exits) > 1 and len(found.exits) == 1
