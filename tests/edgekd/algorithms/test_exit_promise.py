"""The promise, kept in as many draws as it says."""

from __future__ import annotations

import math

import numpy as np
import pytest
from cascades import draw
from marks import with_slow

from edgekd.algorithms.exit_promise import promise, samples_needed, split
from edgekd.algorithms.exit_search import cheapest_thresholds
from edgekd.algorithms.exit_thresholds import CascadeSamples, outcome

POPULATION = draw(200_000, 10**6)


def broken(trials: int, count: int, budget: float, certainty: float) -> tuple[float, float]:
    """Return how often the promise is broken, and how often there is one."""
    false = made = 0
    for seed in range(trials):
        found = promise(draw(count, seed), budget, certainty, "betting", seed).certified
        if found is not None:
            made += 1
            false += outcome(POPULATION, found.thresholds).mean_loss > budget
    return false / trials, made / trials


def most(certainty: float, trials: int) -> float:
    return 1 - certainty + 3 * math.sqrt(certainty * (1 - certainty) / trials)


def test_is_broken_no_more_often_than_it_says() -> None:
    false, made = broken(100, 600, 0.02, 0.7)

    assert false <= most(0.7, 100)
    assert made > 0.8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "budget", "certainty"),
    [(600, 0.02, 0.7), (1500, 0.005, 0.8), (1500, 0.01, 0.95)],
)
def test_is_broken_no_more_often_than_it_says_in_2000_draws(
    count: int, budget: float, certainty: float
) -> None:
    false, made = broken(2000, count, budget, certainty)

    assert false <= most(certainty, 2000)
    assert made > 0.8


def test_without_the_test_it_would_be_broken() -> None:
    false = 0
    for seed in range(40):
        point = cheapest_thresholds(draw(600, seed), 0.02)
        false += outcome(POPULATION, point.thresholds).mean_loss > 0.02

    assert false / 40 > 0.5


@pytest.mark.parametrize("test", with_slow(["betting", "binomial"], ["binomial"]))
def test_a_loss_just_over_the_budget_is_certified_no_more_often_than_allowed(test: str) -> None:
    rng = np.random.default_rng(0)
    made = 0
    for seed in range(200):
        losses = rng.random((300, 1)) < 0.0501
        samples = CascadeSamples(np.full((300, 1), 0.5), losses, np.array([1, 2]))
        made += promise(samples, 0.05, 0.8, test, seed).certified is not None

    assert made / 200 <= most(0.8, 200)


def test_says_what_was_tested() -> None:
    found = promise(draw(3000, 0), 0.01, 0.95, "betting")
    path, tested = split(3000, 0)

    assert found.certified is not None and found.certified.shares[-1] < 1
    assert (found.samples, found.tested) == (3000, len(tested)) == (3000, 2000)
    assert found.certified == outcome(draw(3000, 0).take(tested), found.certified.thresholds)
    assert all(step.p_value <= 0.05 for step in found.steps[:-1])
    assert found.steps[-1].p_value > 0.05
    assert found.certified == found.steps[-2].point
    assert found == promise(draw(3000, 0), 0.01, 0.95, "betting")
    assert sorted([*path, *tested]) == list(range(3000))


def test_too_few_samples_certify_nothing_and_it_says_how_many_would() -> None:
    few = promise(draw(300, 0), 0.005, 0.95, "betting")

    assert few.certified is None
    assert few.samples_needed is not None
    assert 900 <= few.samples_needed <= 1500  # two thirds of them test; 600 without a loss


def test_the_number_of_samples_is_the_one_that_passes() -> None:
    rng = np.random.default_rng(0)
    losses = rng.permutation(np.repeat([1.0, -1.0, 0.0], [6, 2, 992]))  # mean 0.004
    needed = samples_needed(losses, 0.01, 0.95, "betting")
    assert needed is not None
    passed = [
        promise(
            CascadeSamples(
                np.full((needed, 1), 0.5), rng.choice(losses, (needed, 1)), np.array([1, 2])
            ),
            0.01,
            0.95,
            "betting",
            seed,
        ).certified
        is not None
        for seed in range(40)
    ]
    assert 0.4 < np.mean(passed) < 0.95
    assert samples_needed(losses, 0.004, 0.95, "betting") is None
    assert samples_needed(losses, 0.00401, 0.95, "betting") is None
    assert samples_needed(np.zeros(5), 0.005, 0.95, "binomial") == pytest.approx(897, rel=0.01)


def test_says_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="5 samples"):
        promise(draw(5, 0), 0.01, 0.95, "betting")
    with pytest.raises(ValueError, match="0 or 1"):
        promise(draw(500, 0), 0.01, 0.95, "binomial")
