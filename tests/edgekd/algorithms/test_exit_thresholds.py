"""Who leaves where, sample by sample."""

from __future__ import annotations

import math

import numpy as np
import pytest
from cascades import draw

from edgekd.algorithms.exit_thresholds import CascadeSamples, leave_at, losses_of, outcome

CONFIDENCES = np.array([[0.9, 0.1], [0.5, 0.9], [0.5, 0.5], [0.0, 0.0]])
LOSSES = np.array([[1, 0], [1, -1], [0, 0], [1, 1]])
SAMPLES = CascadeSamples(CONFIDENCES, LOSSES, np.array([1, 2, 4]))


def test_the_first_confidence_strictly_above_its_threshold_counts() -> None:
    assert leave_at(CONFIDENCES, (0.5, 0.5)).tolist() == [0, 1, 2, 2]
    assert leave_at(CONFIDENCES, (0.0, None)).tolist() == [0, 0, 0, 2]
    assert leave_at(CONFIDENCES, (math.inf, 0.0)).tolist() == [1, 1, 1, 2]
    assert leave_at(CONFIDENCES, (None, None)).tolist() == [2, 2, 2, 2]
    assert leave_at(np.zeros((3, 0)), ()).tolist() == [0, 0, 0]


def test_outcome_of_a_point() -> None:
    found = outcome(SAMPLES, (0.5, 0.5))

    assert losses_of(SAMPLES, (0.5, 0.5)).tolist() == [1, -1, 0, 0]
    assert found.mean_loss == 0
    assert found.cost == (1 + 2 + 4 + 4) / 4
    assert found.shares == (0.25, 0.25, 0.5)


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_loop_of_the_host(seed: int) -> None:
    samples = draw(200, seed, exits=3, digits=1)
    thresholds = (0.9, None, 0.5)

    def host(row: int) -> int:
        for exit_, threshold in enumerate(thresholds):
            if threshold is not None and samples.confidences[row, exit_] > threshold:
                return exit_
        return 3

    ends = [host(row) for row in range(200)]
    assert leave_at(samples.confidences, thresholds).tolist() == ends
    losses = [samples.losses[row, end] if end < 3 else 0 for row, end in enumerate(ends)]
    found = outcome(samples, thresholds)
    assert found.mean_loss == pytest.approx(np.mean(losses))
    assert found.cost == pytest.approx(np.mean([end + 1 for end in ends]))


def test_parts_and_fewer_exits() -> None:
    assert SAMPLES.take(np.array([3, 1])).losses.tolist() == [[1, 1], [1, -1]]
    later = SAMPLES.at((1,), np.array([1.5, 3]))
    assert later.confidences.tolist() == CONFIDENCES[:, 1:].tolist()
    assert later.exits == 1
    assert SAMPLES.at((), np.array([3])).exits == 0


@pytest.mark.parametrize(
    ("confidences", "losses", "costs", "what"),
    [
        (CONFIDENCES, LOSSES[:2], [1, 2, 4], "same shape"),
        (CONFIDENCES[:0], LOSSES[:0], [1, 2, 4], "no samples"),
        (CONFIDENCES, LOSSES, [1, 2], "3 costs"),
        (CONFIDENCES, LOSSES, [1, 3, 2], "do not fall"),
        (CONFIDENCES, LOSSES * 2, [1, 2, 4], r"\[-1, 1\]"),
        (CONFIDENCES * math.nan, LOSSES, [1, 2, 4], "finite"),
    ],
)
def test_says_what_does_not_fit(
    confidences: np.ndarray, losses: np.ndarray, costs: list[float], what: str
) -> None:
    with pytest.raises(ValueError, match=what):
        CascadeSamples(confidences, losses, np.array(costs))
