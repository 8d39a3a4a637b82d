"""Widths under a budget, against trying everything."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Mapping
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.algorithms.width_search import TargetError, search_widths

Damage = dict[str, dict[int, float]]
Cost = Callable[[Mapping[str, int]], float]


def instance(seed: int) -> tuple[Damage, Cost, float]:
    """Return a chain of up to four layers, or three and a block that may be dropped.

    A layer costs inputs x outputs in blocks of 16 (a staircase), times a random factor.
    """
    rng = random.Random(seed)
    count, droppable = rng.choice([(1, False), (2, True), (3, False), (3, True), (4, False)])
    damage: Damage = {}
    for index in range(count):
        widths = sorted(rng.sample(range(8, 72, 8), rng.randint(1, 4)), reverse=True)
        losses = sorted(rng.random() ** 2 for _ in widths[1:])
        damage[f"v{index}"] = dict(zip(widths, [0.0, *losses], strict=True))
    if droppable:
        damage["drop"] = {0: 0.0, 1: rng.random()}
    factors = [rng.uniform(0.2, 2) for _ in range(count + 1)]

    def cost(assignment: Mapping[str, int]) -> float:
        sizes = [3, *(assignment[f"v{index}"] for index in range(count)), 10]
        blocks = [math.ceil(size / 16) for size in sizes]
        layers = [f * (a * b + 0.1) for f, (a, b) in zip(factors, pairwise(blocks), strict=True)]
        return sum(layers[2:] if assignment.get("drop") else layers)

    full = cost({name: 0 if name == "drop" else max(widths) for name, widths in damage.items()})
    return damage, cost, full * rng.uniform(0.2, 0.9)


def best(damage: Damage, cost: Cost, target: float) -> float:
    """Return the least damage of all assignments, infinity if none meets the target."""
    all_of_them = (
        dict(zip(damage, chosen, strict=True)) for chosen in itertools.product(*damage.values())
    )
    return min(
        (
            sum(damage[name][width] for name, width in assignment.items())
            for assignment in all_of_them
            if cost(assignment) <= target
        ),
        default=math.inf,
    )


@given(st.integers(0, 10**9))
def test_meets_the_target_or_says_what_can_be_reached(seed: int) -> None:
    damage, cost, target = instance(seed)
    try:
        found = search_widths(damage, cost, target)
    except TargetError as error:
        assert error.smallest > target
        assert f"{error.smallest:.6g}" in str(error)
        assert best(damage, cost, target) == math.inf
        return
    assert found.cost == cost(found.assignment) <= target
    assert found.damage == sum(damage[n][option] for n, option in found.assignment.items())
    assert search_widths(damage, cost, target) == found


def test_is_almost_always_the_best_there_is() -> None:
    gaps = []
    for seed in range(400):
        damage, cost, target = instance(seed)
        optimum = best(damage, cost, target)
        if optimum < math.inf:
            gaps.append(search_widths(damage, cost, target).damage - optimum)
    assert len(gaps) > 200
    assert min(gaps) > -1e-12
    assert sum(gap < 1e-12 for gap in gaps) >= 0.98 * len(gaps)


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=12), st.data())
def test_units_of_one_cost_go_by_damage(losses: list[float], data: st.DataObject) -> None:
    keep = data.draw(st.integers(0, len(losses)))
    damage = {f"v{index}": {1: 0.0, 0: loss} for index, loss in enumerate(losses)}
    found = search_widths(damage, lambda assignment: float(sum(assignment.values())), keep)
    assert found.damage == pytest.approx(sum(sorted(losses)[: len(losses) - keep]))


@given(st.lists(st.floats(0.1, 1), min_size=1, max_size=8), st.floats(0.5, 4))
def test_coupled_layers_go_together(losses: list[float], factor: float) -> None:
    """Each layer alone saves nothing; only all of them narrowed do."""
    damage = {f"v{index}": {16: 0.0, 8: loss} for index, loss in enumerate(losses)}

    def cost(assignment: Mapping[str, int]) -> float:
        return factor * max(assignment.values())

    assert search_widths(damage, cost, 16 * factor).damage == 0
    assert set(search_widths(damage, cost, 8 * factor).assignment.values()) == {8}


def test_an_option_that_harms_less_and_costs_less_is_taken() -> None:
    damage = {"a": {32: 0.2, 16: 0.1}, "b": {8: 0.0}}
    found = search_widths(damage, lambda assignment: float(sum(assignment.values())), 100)
    assert found.assignment == {"a": 16, "b": 8}


def test_needs_options() -> None:
    with pytest.raises(ValueError, match="every variable needs an option"):
        search_widths({"a": {}}, lambda _assignment: 1.0, 2.0)
