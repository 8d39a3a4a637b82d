"""The three confidences inside a graph are those of the formulas."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from exits import run
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgekd.errors import ExportError
from edgekd.export.confidence import Confidence, append_confidence

KINDS: tuple[Confidence, ...] = ("probability", "margin", "entropy")


def identity(classes: int = 5, opset: int = 17, inner: str = "h") -> onnx.ModelProto:
    shape = ["batch", classes]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("x", "exit_1")]
    nodes = [
        helper.make_node("Neg", ["x"], [inner]),
        helper.make_node("Neg", [inner], ["exit_1"]),
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def expected(logits: NDArray[np.float32], kind: str, temperature: float) -> NDArray[np.float64]:
    z = logits.astype(np.float64) / temperature
    logs = z - z.max(1, keepdims=True)
    logs -= np.log(np.exp(logs).sum(1, keepdims=True))
    p = np.exp(logs)
    if kind == "probability":
        return p.max(1)
    if kind == "margin":
        top = np.sort(p, 1)
        return top[:, -1] - top[:, -2]
    return 1 + (p * logs).sum(1) / np.log(p.shape[1])


@pytest.mark.parametrize("opset", [17, 18, 20, 21])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [1.0, 0.3, 4.0])
def test_equals_the_formula(kind: Confidence, opset: int, temperature: float) -> None:
    model = identity(opset=opset)
    append_confidence(model, "exit_1", kind, temperature)
    onnx.checker.check_model(model, full_check=True)
    logits = np.random.default_rng(0).normal(size=(50, 5)).astype(np.float32) * 3
    logits[0], logits[1] = 0, [200, 0, 0, 0, 0]  # as unsure and as sure as can be
    found = run(model.SerializeToString(), {"x": logits})
    assert found["confidence"].shape == (50,) and found["confidence"].dtype == np.float32
    np.testing.assert_allclose(
        found["confidence"], expected(logits, kind, temperature), rtol=2e-5, atol=2e-6
    )
    np.testing.assert_array_equal(found["exit_1"], logits)


@settings(max_examples=30, deadline=None)
@given(arrays(np.float32, (3, 4), elements=st.floats(-1e4, 1e4, width=32)), st.sampled_from(KINDS))
def test_lies_between_0_and_1(logits: NDArray[np.float32], kind: Confidence) -> None:
    model = identity(4)
    append_confidence(model, "exit_1", kind, 0.7)
    found = run(model.SerializeToString(), {"x": logits})["confidence"]
    assert np.all((found >= 0) & (found <= 1 + 1e-6))


def test_an_inner_tensor_of_that_name_makes_way() -> None:
    model = identity(inner="confidence")
    append_confidence(model, "exit_1", "probability", 1.0)
    onnx.checker.check_model(model, full_check=True)
    found = run(model.SerializeToString(), {"x": np.zeros((1, 5), np.float32)})
    np.testing.assert_allclose(found["confidence"], [0.2], rtol=1e-6)


def test_refuses_what_has_no_confidence() -> None:
    with pytest.raises(ExportError, match="2 classes or more"):
        append_confidence(identity(1), "exit_1", "entropy", 1.0)
    for temperature in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ExportError, match="temperature of exit_1 must be positive"):
            append_confidence(identity(), "exit_1", "entropy", temperature)
