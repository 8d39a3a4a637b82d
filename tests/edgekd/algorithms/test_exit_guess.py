"""The guess, and whether its estimate is honest."""

from __future__ import annotations

import numpy as np
import pytest
from cascades import draw

from edgekd.algorithms.exit_guess import best_guess, cross_fit
from edgekd.algorithms.exit_promise import promise
from edgekd.algorithms.exit_search import cheapest_for_each
from edgekd.algorithms.exit_thresholds import CascadeSamples, ExitPoint, outcome

POPULATION = draw(200_000, 10**6, exits=3)


def test_cross_fitting_takes_the_optimism_away() -> None:
    seen, estimated, true, costs = [], [], [], []
    for seed in range(25):
        samples = draw(400, seed, exits=3)
        (point,) = cheapest_for_each(samples, [0.01])
        (estimate,) = cross_fit(samples, [0.01], seed=seed)
        truth = outcome(POPULATION, point.thresholds)
        seen.append(point.mean_loss)
        estimated.append(estimate.mean_loss)
        true.append(truth.mean_loss)
        costs.append(estimate.cost / truth.cost)

    optimism = np.mean(true) - np.mean(seen)
    assert optimism > 0.004
    assert abs(np.mean(estimated) - np.mean(true)) < optimism / 2
    assert np.mean(costs) == pytest.approx(1, abs=0.03)


def test_the_guess_loses_about_what_it_may() -> None:
    true = []
    for seed in range(20):
        guess = best_guess(draw(500, seed, exits=3), 0.02, 0.95, "betting", seed=seed)
        true.append(outcome(POPULATION, guess.point.thresholds).mean_loss)
        assert guess.point.mean_loss <= 0.02
        assert guess.estimate.cost < 4

    assert 0.005 < np.mean(true) < 0.021


def test_says_how_many_samples_would_certify_it() -> None:
    guess = best_guess(draw(2000, 0, exits=3), 0.02, 0.95, "betting")

    assert guess == best_guess(draw(2000, 0, exits=3), 0.02, 0.95, "betting")
    assert guess.estimate.standard_error == pytest.approx(0.004, abs=0.002)
    assert sum(guess.estimate.shares) == pytest.approx(1)
    assert guess.samples_needed is None or guess.samples_needed > 500


def test_labels_spread_the_classes_over_the_folds() -> None:
    # One sample of class 1 in each fold: it alone loses, and the others' thresholds avoid it.
    labels = np.repeat([0, 1], [45, 5])
    samples = CascadeSamples(
        np.where(labels, 0.2, 0.6)[:, None], labels[:, None], np.array([1.0, 2.0])
    )

    (estimate,) = cross_fit(samples, [0.0], labels)

    assert estimate.mean_loss == 0
    assert estimate.shares == (0.9, 0.1)


def test_says_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="two samples"):
        cross_fit(draw(1, 0), [0.1])


def test_without_exits_there_is_nothing_to_promise() -> None:
    none = draw(300, 0).at((), [3.0])

    assert promise(none, 0.01, 0.95, "betting").certified is None
    assert best_guess(none, 0.01, 0.95, "betting").point == ExitPoint((), 0.0, 3.0, (1.0,))
