"""Confidences against their definitions and at the ends of their range."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.algorithms.confidence import ConfidenceKind, confidence

KINDS: tuple[ConfidenceKind, ...] = ("probability", "margin", "entropy")


def test_of_known_probabilities() -> None:
    logits = np.log(np.array([[0.7, 0.2, 0.1], [1, 1, 1]]))

    assert confidence(logits, "probability") == pytest.approx([0.7, 1 / 3], rel=1e-6)
    assert confidence(logits, "margin") == pytest.approx([0.5, 0], abs=1e-6)
    entropy = -sum(p * np.log(p) for p in (0.7, 0.2, 0.1))
    assert confidence(logits, "entropy") == pytest.approx([1 - entropy / np.log(3), 0], abs=1e-6)


def test_temperature_divides_the_logits() -> None:
    logits = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32) * 8
    for kind in KINDS:
        cool = confidence(logits, kind, 4.0)
        assert np.array_equal(cool, confidence(logits / 4, kind))
        assert (cool < confidence(logits, kind)).all()


@given(
    scale=st.sampled_from([1e-30, 1.0, 1e4, 1e30]),
    shift=st.sampled_from([-1e5, 0.0, 1e5]),
    classes=st.integers(2, 7),
    seed=st.integers(0, 999),
)
def test_stays_in_its_range(scale: float, shift: float, classes: int, seed: int) -> None:
    logits = np.random.default_rng(seed).normal(size=(9, classes)) * scale + shift
    for kind in KINDS:
        found = confidence(logits.astype(np.float32), kind, 1.7)
        assert found.dtype == np.float32 and found.shape == (9,)
        assert ((found >= 0) & (found <= 1)).all()


def test_says_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="shape"):
        confidence(np.zeros((3, 1)), "margin")
    with pytest.raises(ValueError, match="above 0"):
        confidence(np.zeros((3, 2)), "margin", 0.0)
    with pytest.raises(ValueError, match="probability, margin or entropy"):
        confidence(np.zeros((3, 2)), "energy")  # type: ignore[arg-type]
