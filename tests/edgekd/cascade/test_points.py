"""Which exits are kept, when samples leave, and what is promised of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgekd.algorithms.exit_promise import split
from edgekd.algorithms.exit_thresholds import outcome
from edgekd.cascade.costs import computed_parts
from edgekd.cascade.points import FULL, Chosen, choose_points
from edgekd.cascade.recorded import Recorded
from edgekd.recipe import EarlyExitStage, OperatingPoint

PARTS = computed_parts(("exit_1", "exit_2", "exit_3"), (0.3, 0.55, 0.8))
CLASSES = 4


def population(count: int, seed: int = 0, skill: float = 1.0) -> Recorded:
    """Return logits of exits that know more the deeper they are; hard samples need depth."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    hard = rng.random(count)
    truth = np.eye(CLASSES)[labels]

    def logits(depth: float) -> Any:
        signal = skill * 8 * np.clip(1.2 * depth + 0.4 - hard, 0, 1)[:, None] * truth
        return (signal + rng.normal(size=(count, CLASSES))).astype(np.float32)

    return Recorded(tuple(map(logits, (0.3, 0.55, 0.8))), logits(1.0), labels)


def stage(**settings: Any) -> EarlyExitStage:
    return EarlyExitStage(stage="early_exit", **settings)


def points(*budgets: float) -> tuple[OperatingPoint, ...]:
    return tuple(OperatingPoint(name=f"p{i}", max_drop=b) for i, b in enumerate(budgets))


def choose(recorded: Recorded, *budgets: float, seed: int = 0, **settings: Any) -> Chosen | None:
    return choose_points(recorded, PARTS, stage(**settings), points(*budgets), seed)


@pytest.mark.parametrize("confidence", ["probability", "margin", "entropy"])
def test_enough_samples_make_a_promise_that_keeps_the_points_name(confidence: str) -> None:
    chosen = choose(population(3000), 3.0, 10.0, confidence=confidence)
    assert chosen is not None
    full, first, second = chosen.points
    assert full.name == FULL and full.thresholds == (None,) * len(chosen.exits)
    assert (first.name, second.name, chosen.default) == ("p0", "p1", "p0")
    for point, budget in ((first, 3.0), (second, 10.0)):
        assert point.facts["certified"] and point.facts["max_drop"] == budget
        assert point.facts["certainty"] == 0.95 and point.facts["tested_on"] == 2000
        assert len(point.facts["shares"]) == len(chosen.exits) + 1
        assert sum(point.facts["shares"]) == pytest.approx(1)
    assert second.facts["expected_cost"] <= first.facts["expected_cost"] < chosen.whole == 1.0
    assert chosen.costs[-1] == pytest.approx(1.0) and len(chosen.costs) == len(chosen.exits) + 1
    assert chosen.curve[0].mean_loss == 0.0
    fresh = population(20000, seed=9).at(chosen.exits)  # the promise, on what nobody has seen
    samples = fresh.samples(confidence, chosen.temperatures, chosen.costs)  # type: ignore[arg-type]
    for point, budget in ((first, 3.0), (second, 10.0)):
        assert outcome(samples, point.thresholds).mean_loss <= budget / 100


def test_what_cannot_be_promised_has_another_name_and_is_not_the_default() -> None:
    chosen = choose(population(400), 0.2, 12.0)
    assert chosen is not None
    assert [point.name for point in chosen.points] == [FULL, "p0-uncertified", "p1-uncertified"]
    assert chosen.default == FULL
    guess = chosen.points[1].facts
    assert not guess["certified"]
    assert guess["samples_needed"] is None or guess["samples_needed"] > 400
    assert guess["estimate"]["cost"] <= 1.0
    assert len(guess["estimate"]["shares"]) == len(chosen.exits) + 1


def test_a_later_point_that_cannot_be_promised_does_not_take_the_first_ones_name() -> None:
    chosen = choose(population(900), 10.0, 0.05)
    assert chosen is not None
    assert [point.name for point in chosen.points] == [FULL, "p0", "p1-uncertified"]
    assert chosen.default == "p0"


def test_the_samples_of_the_test_choose_nothing() -> None:
    """Else what they say of the choice would be too good."""
    recorded = population(1500)
    _, tested = split(1500, 0)
    spoiled = tuple(logits.copy() for logits in recorded.exits)
    for logits in spoiled:  # sure and wrong
        logits[tested] = 20 * np.eye(CLASSES)[(recorded.labels[tested] + 1) % CLASSES]
    a, b = (choose(r, 4.0) for r in (recorded, replace(recorded, exits=spoiled)))
    assert a is not None and b is not None
    assert a.exits == b.exits and a.temperatures == b.temperatures
    assert a.points[1].name == "p0" and b.points[1].name == "p0-uncertified"


def test_exits_that_know_nothing_are_not_kept() -> None:
    recorded = population(600)
    noise = np.random.default_rng(2).normal(size=(600, CLASSES)).astype(np.float32)
    blind = replace(recorded, exits=(noise,) * 3)
    assert choose(blind, 0.0) is None
    found = choose(replace(recorded, exits=(noise, *recorded.exits[1:])), 4.0)
    assert found is not None and 0 not in found.exits


def test_heads_that_cost_more_than_they_save_are_not_kept() -> None:
    dear = {
        part: 5 * cost if "exit" in part[0] + part[1] else cost
        for part, cost in PARTS.parts.items()
    }
    assert (
        choose_points(population(600), replace(PARTS, parts=dear), stage(), points(2.0), 0) is None
    )


def test_exits_that_make_the_way_to_the_end_too_long_are_not_kept() -> None:
    heads = {
        part: cost + 0.03 if part[1] in PARTS.exits else cost for part, cost in PARTS.parts.items()
    }
    parts, recorded = replace(PARTS, parts=heads), population(600)

    def kept(limit: float) -> int:
        found = choose_points(recorded, parts, stage(max_overhead=limit), points(2.0), 0)
        assert found is not None
        assert found.costs[-1] <= (1 + limit) * found.whole
        return len(found.exits)

    whole = PARTS.of(())[0]
    assert kept(1.0) > kept(0.031 / whole) == 1


@pytest.mark.parametrize("count", [0, 1, 19])
def test_too_few_samples_choose_nothing(count: int) -> None:
    assert choose(population(count), 5.0) is None


def test_twenty_samples_are_a_guess() -> None:
    chosen = choose(population(20), 5.0)
    assert chosen is None or chosen.default == FULL


def test_the_seed_decides_which_samples_test() -> None:
    recorded = population(800)
    assert choose(recorded, 4.0, seed=3) == choose(recorded, 4.0, seed=3)
