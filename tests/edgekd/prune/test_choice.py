"""Choices of widths and blocks under a limit, with a cost that is written out."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from edgekd.algorithms.width_search import TargetError
from edgekd.prune.choice import choose_by_damage, choose_uniform, nodes_of
from edgekd.prune.residual import ResidualBlock

BLOCK = ResidualBlock("block", "add", "x", ("conv", "relu"), ("block.a",))


def cost(kept: Mapping[str, int], dropped: frozenset[str]) -> float:
    """Two layers of 10 units; the second is in the block."""
    return kept.get("a", 10) * 10 + (0 if "conv" in dropped else kept.get("b", 10))


DAMAGE = {"a": {10: 0.0, 5: 1.0, 1: 5.0}, "b": {10: 0.0, 5: 0.1, 1: 0.5}}


def test_all_stays_where_all_is_cheap_enough() -> None:
    found = choose_by_damage(DAMAGE, {BLOCK: 0.1}, cost, 110)
    assert (found.kept, found.blocks, found.cost, found.damage) == ({"a": 10, "b": 10}, (), 110, 0)


def test_the_least_damage_wins() -> None:
    found = choose_by_damage(DAMAGE, {BLOCK: 0.4}, cost, 105)
    assert found.kept == {"a": 10, "b": 5} and not found.blocks and found.damage == 0.1
    found = choose_by_damage(DAMAGE, {BLOCK: 0.4}, cost, 101)
    assert found.blocks == (BLOCK,) and found.cost == 100 and found.damage == 0.4
    assert found.kept == {"a": 10, "b": 10}, "what is in a block that goes costs nothing"
    found = choose_by_damage(DAMAGE, {BLOCK: 0.9}, cost, 101)
    assert not found.blocks and found.kept == {"a": 10, "b": 1}


def test_the_smallest_cost_is_told_where_none_fits() -> None:
    with pytest.raises(TargetError) as caught:
        choose_by_damage(DAMAGE, {BLOCK: 0.4}, cost, 9)
    assert caught.value.smallest == 10
    again = choose_by_damage(DAMAGE, {BLOCK: 0.4}, cost, caught.value.smallest)
    assert again.cost == 10
    with pytest.raises(TargetError) as caught:
        choose_uniform({"a": [1, 5, 10], "b": [1, 5, 10]}, cost, 9)
    assert caught.value.smallest == 11


@pytest.mark.parametrize(("limit", "kept"), [(110, 10), (109, 5), (55, 5), (54, 1), (11, 1)])
def test_uniform_takes_the_widest_share_that_holds(limit: float, kept: int) -> None:
    found = choose_uniform({"a": [1, 5, 10], "b": [1, 5, 10]}, cost, limit)
    assert found.kept == {"a": kept, "b": kept} and found.cost <= limit
    assert found.cost == 11 * kept and found.blocks == ()


def test_a_block_that_goes_takes_its_sum_along() -> None:
    assert nodes_of([BLOCK]) == {"add", "conv", "relu"}
