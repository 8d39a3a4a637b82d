"""Thresholds under a budget, against trying everything."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from cascades import draw

from edgekd.algorithms.exit_search import cheapest_for_each, cheapest_thresholds
from edgekd.algorithms.exit_thresholds import CascadeSamples, ExitPoint, outcome


def noise(seed: int) -> tuple[CascadeSamples, float]:
    """Return a small cascade without any sense in it, with ties, and a budget."""
    rng = np.random.default_rng(seed)
    exits = int(rng.integers(1, 4))
    count = {1: 40, 2: 25, 3: 10}[exits]
    confidences = rng.integers(0, 30, size=(count, exits)) / 30
    losses = rng.choice([-1, 0, 1], p=[0.1, 0.7, 0.2], size=(count, exits))
    costs = np.cumsum(rng.random(exits + 1))
    return CascadeSamples(confidences, losses, costs), float(rng.choice([0, 0.05, 0.1]))


def best_of_all(samples: CascadeSamples, budget: float) -> ExitPoint:
    options = [
        [None, 0.0, *np.unique(column[column > 0]).tolist()] for column in samples.confidences.T
    ]
    points = (outcome(samples, thresholds) for thresholds in itertools.product(*options))
    return min((p for p in points if p.mean_loss <= budget + 1e-12), key=lambda p: p.cost)


def test_finds_the_best_of_all_in_nearly_all_small_cases() -> None:
    gaps = []
    for seed in range(40):
        samples, budget = noise(seed)
        found, best = cheapest_thresholds(samples, budget), best_of_all(samples, budget)
        assert found.mean_loss <= budget + 1e-12
        assert found.cost >= best.cost - 1e-12
        gaps.append(found.cost / best.cost - 1)

    assert np.mean(np.array(gaps) < 1e-9) >= 0.95
    assert np.mean(gaps) < 0.005


def test_the_short_search_comes_close_on_a_cascade() -> None:
    samples = draw(1500, 3, exits=4)
    budgets = [0.0, 0.002, 0.01, 0.05]

    short = cheapest_for_each(samples, budgets)
    full = [cheapest_thresholds(samples, budget) for budget in budgets]

    for budget, quick, thorough in zip(budgets, short, full, strict=True):
        assert max(quick.mean_loss, thorough.mean_loss) <= budget + 1e-12
        assert thorough.cost <= quick.cost + 1e-9 <= thorough.cost * 1.03
    assert full[0].cost < samples.costs[-1] * 0.95  # the comparison is of something
    assert full[0].cost > full[1].cost > full[2].cost > full[3].cost


def test_thresholds_are_confidences_that_stay() -> None:
    samples = draw(300, 0)

    for exit_, threshold in enumerate(cheapest_thresholds(samples, 0.02).thresholds):
        assert threshold in (None, 0.0) or threshold in samples.confidences[:, exit_]


def test_an_exit_that_only_loses_is_never_taken_and_a_free_one_always() -> None:
    confidences = np.random.default_rng(0).uniform(0.1, 1, size=(50, 2))
    losses = np.zeros((50, 2))
    losses[:, 0] = 1

    found = cheapest_thresholds(CascadeSamples(confidences, losses, np.array([1, 2, 3])), 0.0)

    assert found.thresholds == (None, 0.0)
    assert (found.mean_loss, found.cost) == (0, 2)


def test_without_exits_or_with_confidences_of_nothing() -> None:
    none = CascadeSamples(np.zeros((5, 0)), np.zeros((5, 0)), np.array([2.0]))
    assert cheapest_thresholds(none, 0.1) == ExitPoint((), 0.0, 2.0, (1.0,))
    unsure = CascadeSamples(np.zeros((5, 1)), np.zeros((5, 1)), np.array([1.0, 2.0]))
    assert cheapest_thresholds(unsure, 0.1).thresholds == (None,)


@pytest.mark.slow
def test_is_quick_and_the_same_again() -> None:
    samples = draw(10000, 1, exits=6)

    start = time.process_time()
    found = cheapest_thresholds(samples, 0.005)

    assert time.process_time() - start < 15  # about 1 s here
    assert found == cheapest_thresholds(samples, 0.005)


def test_says_what_is_wrong() -> None:
    for budgets in ([], [-0.1], [float("nan")]):
        with pytest.raises(ValueError, match="at least 0"):
            cheapest_for_each(draw(10, 0), budgets)
