"""The curve from "nothing leaves" to "all leave at the first"."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from cascades import draw

from edgekd.algorithms.exit_frontier import frontier
from edgekd.algorithms.exit_thresholds import CascadeSamples, outcome


@pytest.mark.parametrize("seed", range(3))
def test_goes_from_one_end_to_the_other(seed: int) -> None:
    samples = draw(2000, seed, exits=3)

    points = frontier(samples)

    assert points[0].thresholds == (None,) * 3
    assert points[0].mean_loss == 0 and points[0].cost == 4
    assert points[-1].shares == (1, 0, 0, 0) and points[-1].cost == 1
    assert points[-1].mean_loss == pytest.approx(samples.losses[:, 0].mean())
    assert all(later.cost < former.cost for former, later in pairwise(points))
    assert len(points) > 10
    for point in points:
        assert point == outcome(samples, point.thresholds)


def test_budgets_are_kept_behind_the_cautious_points() -> None:
    samples = draw(1000, 0)

    points = frontier(samples, [0.001, 0.01])

    free = max(i for i, point in enumerate(points) if point.mean_loss <= 0)
    assert all(point.mean_loss <= 0.01 for point in points[free:])
    leaving = [1 - point.shares[-1] for point in points[1:]]
    # The surest eighth of each exit; what a raised threshold keeps may leave at the next one.
    assert 0.1 < leaving[0] / leaving[4] < 0.3
    assert leaving == sorted(leaving)


def test_nothing_to_gain() -> None:
    bad = CascadeSamples(np.full((20, 1), 0.5), np.ones((20, 1)), np.array([1, 2]))
    assert [point.shares for point in frontier(bad)] == [(0, 1), (1, 0)]
    assert len(frontier(bad, [0.5])) == 1
    assert len(frontier(bad.at((), np.array([2.0])))) == 1
