"""Comparing an engine's answers with the model's."""

from __future__ import annotations

import json

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorrt_graphs import good_block

from edgekd.engine.verify import RANDOM, TOLERANCES, VALIDATION, Verification, answers, compare
from edgekd.runtime.onnxruntime import OnnxRuntimeSession

PRECISIONS = st.sampled_from(sorted(TOLERANCES))


def logits(rows: int = 200, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, 10)).astype(np.float32)


def check(
    found: np.ndarray, wanted: np.ndarray, precision: str = "int8", inputs: str = VALIDATION
) -> Verification:
    return compare({"y": found}, {"y": wanted}, precision=precision, logits=True, inputs=inputs)


@given(PRECISIONS, st.integers(0, 99), st.floats(1e-6, 1e6))
def test_the_same_answers_pass_at_any_scale(precision: str, seed: int, scale: float) -> None:
    wanted = logits(seed=seed) * np.float32(scale)
    found = check(wanted.copy(), wanted, precision)
    assert found.passed and found.agreement == 1.0 and found.relative_error == 0.0


@given(PRECISIONS, st.floats(0.05, 20))
def test_noise_passes_up_to_the_tolerance(precision: str, times: float) -> None:
    wanted, noise = logits().astype(np.float64), logits(seed=1).astype(np.float64)
    size = times * TOLERANCES[precision] * np.linalg.norm(wanted) / np.linalg.norm(noise)
    found = check(wanted + size * noise, wanted, precision, RANDOM)
    assert found.relative_error == pytest.approx(times * TOLERANCES[precision])
    assert found.passed == (times <= 1) or times == pytest.approx(1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_number_that_is_not_finite_never_passes(bad: float) -> None:
    found = logits()
    found[7, 3] = bad
    result = check(found, logits())
    assert not result.passed and "not finite" in result.sentence()
    json.dumps(result.to_dict(), allow_nan=False)


def test_clear_classes_may_not_change_but_near_ties_may() -> None:
    wanted = np.tile(np.array([[5.0, 0.0, 0.0]], np.float32), (1000, 1))
    swapped = wanted.copy()
    swapped[:6] = [[0.0, 5.0, 0.0]]  # more than 0.5 %, by far the wrong class
    result = check(swapped, wanted)
    assert result.clear_disagreements == 6 and not result.passed
    assert check(swapped[:5], wanted[:5]).passed is False

    close = np.tile(np.array([[5.0, 4.95, 0.0]], np.float32), (1000, 1))
    other = close[:, [1, 0, 2]]
    result = check(other, close)
    assert result.agreement == 0.0 and result.clear_disagreements == 0 and result.passed


def test_noise_inputs_do_not_judge_classes() -> None:
    wanted = np.tile(np.array([[5.0, 0.0, 0.0]], np.float32), (2000, 1))
    found = wanted.copy()
    found[:15] = [[0.0, 1.0, 0.0]]
    assert check(found, wanted, inputs=RANDOM).passed
    assert not check(found, wanted, inputs=VALIDATION).passed


def test_other_names_or_shapes_are_no_answer() -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        compare({"z": logits()}, {"y": logits()}, precision="int8", logits=False, inputs=RANDOM)
    with pytest.raises(ValueError, match="not \\(200, 10\\)"):
        check(logits(100), logits())


@pytest.mark.parametrize("batch", [1, 3, 7, 64])
def test_answers_do_not_depend_on_how_they_are_asked(batch: int) -> None:
    session = OnnxRuntimeSession(ort.InferenceSession(good_block().SerializeToString()))
    x = np.random.default_rng(0).normal(size=(7, 4, 8, 8)).astype(np.float32)
    whole = answers(session, {"x": x}, 7)
    parts = answers(session, {"x": x}, batch)
    np.testing.assert_array_equal(parts["y"], whole["y"])
