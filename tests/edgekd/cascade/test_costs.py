"""What leaving costs, from the parts between exits."""

from __future__ import annotations

from itertools import combinations

import pytest
from exits import EXITS, OWN, exported
from hypothesis import given
from hypothesis import strategies as st

from edgekd.cascade.costs import END, START, PartCosts, computed_parts, measure_parts
from edgekd.progress import Silent

NAMES = ("a", "b", "c")


def test_any_choice_of_exits_is_the_sum_of_its_parts() -> None:
    order = [START, *NAMES, END]
    parts = {pair: 2.0**index for index, pair in enumerate(combinations(order, 2))}
    costs = PartCosts(NAMES, parts, "ms")
    assert costs.of(()) == (parts[START, END],)
    assert costs.of((1,)) == (parts[START, "b"], parts[START, "b"] + parts["b", END])
    ways = [(START, "a"), ("a", "c"), ("c", END)]
    sums = [sum(parts[way] for way in ways[: i + 1]) for i in range(3)]
    assert costs.of((0, 2)) == tuple(sums)


@given(st.lists(st.floats(0.01, 0.99), min_size=1, max_size=5, unique=True).map(sorted), st.data())
def test_computed_costs_end_at_the_whole_model(shares: list[float], data: st.DataObject) -> None:
    names = [f"exit_{i}" for i in range(len(shares))]
    costs = computed_parts(names, shares)
    chosen = data.draw(st.sets(st.integers(0, len(shares) - 1)).map(sorted))
    found = costs.of(chosen)
    assert found == pytest.approx([*(shares[i] for i in chosen), 1.0])
    assert costs.unit == "share"


def test_every_part_is_timed_as_it_would_be_deployed() -> None:
    model, _ = exported("cnn", "float")
    costs = measure_parts(model, OWN, EXITS, threads=1, seed=0, progress=Silent())
    assert costs.unit == "ms" and costs.exits == EXITS
    assert set(costs.parts) == set(combinations([START, *EXITS, END], 2))
    assert all(cost > 0 for cost in costs.parts.values())
    first, second, end = costs.of((0, 1))
    assert first < second < end
