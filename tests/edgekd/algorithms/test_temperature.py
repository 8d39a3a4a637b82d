"""Temperatures against known ones, and where there is no good one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.algorithms.temperature import HIGHEST, LOWEST, fit_temperature


def labelled(temperature: float, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return logits and labels that follow softmax(logits / temperature)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, 5)) * 3
    noise = rng.gumbel(size=logits.shape)
    return logits, np.argmax(logits / temperature + noise, axis=1)


def nll(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    z = logits / temperature
    z = z - z.max(axis=1, keepdims=True)
    chosen = z[np.arange(len(z)), labels]
    return float((np.log(np.exp(z).sum(axis=1)) - chosen).mean())


@pytest.mark.parametrize("true", [0.3, 1.0, 2.5, 8.0])
def test_finds_the_temperature_that_made_the_labels(true: float) -> None:
    assert fit_temperature(*labelled(true, 20000)) == pytest.approx(true, rel=0.06)


@given(count=st.integers(1, 30), true=st.sampled_from([0.1, 1.0, 10.0]), seed=st.integers(0, 10**6))
def test_no_temperature_on_a_grid_is_better(count: int, true: float, seed: int) -> None:
    logits, labels = labelled(true, count, seed)

    found = fit_temperature(logits, labels)

    assert LOWEST * 0.999 < found < HIGHEST * 1.001
    best = min(nll(logits, labels, t) for t in np.geomspace(LOWEST, HIGHEST, 200))
    assert nll(logits, labels, found) <= best + 1e-8


def test_separable_logits_end_at_the_bound_or_stay_as_they_are() -> None:
    labels = np.arange(4)

    assert fit_temperature(np.eye(4), labels) == pytest.approx(LOWEST, rel=1e-3)
    assert fit_temperature(np.eye(4) * 1000, labels) == 1.0
    assert fit_temperature(np.zeros((4, 4)), labels) == 1.0


@pytest.mark.parametrize(
    ("logits", "labels", "what"),
    [
        (np.zeros((0, 3)), np.zeros(0, int), "shape"),
        (np.zeros((3, 1)), np.zeros(3, int), "shape"),
        (np.zeros((3, 2)), np.array([0, 1, 2]), "labels"),
        (np.zeros((3, 2)), np.array([0, 1]), "labels"),
        (np.array([[0.0, np.nan]]), np.array([0]), "finite"),
    ],
)
def test_says_what_is_wrong(logits: np.ndarray, labels: np.ndarray, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        fit_temperature(logits, labels)
