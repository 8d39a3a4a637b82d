"""What exits said of samples, as the arithmetic of thresholds wants it."""

from __future__ import annotations

import numpy as np
import pytest

from edgekd.algorithms.confidence import confidence
from edgekd.cascade.recorded import Recorded

LABELS = np.array([0, 1, 2, 0])
END = np.eye(3, dtype=np.float32)[[0, 1, 2, 1]] * 4  # the last is wrong
FIRST = np.eye(3, dtype=np.float32)[[0, 2, 2, 0]] * 2  # the second is wrong
SECOND = np.eye(3, dtype=np.float32)[[0, 1, 2, 1]] * 3


@pytest.fixture
def recorded() -> Recorded:
    return Recorded((FIRST, SECOND), END, LABELS)


def test_losses_are_what_the_end_would_have_been_right_on(recorded: Recorded) -> None:
    found = recorded.samples("probability", (1.0, 2.0), (1.0, 2.0, 3.0))
    assert found.losses.tolist() == [[0, 0], [1, 0], [0, 0], [-1, 0]]
    assert recorded.accuracies() == [0.75, 0.75, 0.75]
    expected = np.stack(
        [confidence(FIRST, "probability", 1.0), confidence(SECOND, "probability", 2.0)], 1
    )
    np.testing.assert_allclose(found.confidences, expected, rtol=1e-6)
    assert found.costs.tolist() == [1.0, 2.0, 3.0]


def test_some_samples_and_some_exits(recorded: Recorded) -> None:
    few = recorded.take(np.array([3, 1]))
    assert few.labels.tolist() == [0, 1] and few.accuracies() == [0.5, 0.5, 0.5]
    second = recorded.at((1,))
    assert len(second.exits) == 1 and second.exits[0] is SECOND and second.end is END
    none = recorded.at(())
    assert none.accuracies() == [0.75]


def test_temperatures_are_one_for_each_exit(recorded: Recorded) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 500)
    logits = np.eye(3)[labels] * 2 + rng.normal(size=(500, 3))
    several = Recorded(
        tuple((scale * logits).astype(np.float32) for scale in (1.0, 3.0)),
        logits.astype(np.float32),
        labels,
    )
    first, second = several.temperatures()
    assert second == pytest.approx(3 * first, rel=1e-3)
