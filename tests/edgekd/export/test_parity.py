import numpy as np
import pytest
import torch
from networks import network, trace

from edgekd.export.onnx import export_onnx
from edgekd.export.parity import Parity, onnx_predictor, parity, torch_predictor


@pytest.mark.parametrize(
    ("samples", "agreement", "gap", "passed"),
    [
        (10_000, 1.0, 0.0, True),
        (10_000, 0.995, 0.2, True),
        (10_000, 0.9949, 0.0, False),
        (10_000, 1.0, 0.21, False),
        (50, 0.98, 2.0, True),  # one sample of fifty
        (50, 0.96, 0.0, False),
        (50, 0.98, 4.0, False),
    ],
)
def test_limits(samples: int, agreement: float, gap: float, passed: bool) -> None:
    found = Parity(samples, agreement, gap, 0.1)
    assert found.passed == passed and found.to_dict()["passed"] == passed


def test_classes_are_compared_by_their_largest_logit() -> None:
    original = np.eye(4, dtype=np.float32)
    exported = original.copy()
    exported[0] = [0, 0, 0, 2]
    found = parity((exported,), (original,), np.arange(4))
    assert (found.samples, found.agreement, found.max_difference) == (4, 0.75, 2.0)
    assert found.accuracy_gap_points == pytest.approx(25.0)


def test_embeddings_are_compared_by_their_angle() -> None:
    original = np.random.default_rng(0).normal(size=(8, 5))
    assert parity((original * 2,), (original,), None).agreement == pytest.approx(1.0)
    opposite = parity((-original,), (original,), None)
    assert opposite.agreement == pytest.approx(-1.0) and not opposite.passed


def test_an_improvement_is_a_gap_too() -> None:
    labels = np.arange(4)
    original = np.roll(np.eye(4), 1, axis=1)
    found = parity((np.eye(4),), (original,), labels)
    assert found.accuracy_gap_points == pytest.approx(100.0) and not found.passed


def test_every_output_counts() -> None:
    labels, logits = np.arange(4), np.eye(4, dtype=np.float32)
    features = np.random.default_rng(0).normal(size=(4, 6))
    found = parity((logits, -features), (logits, features), labels)
    assert found.agreement == pytest.approx(-1.0) and not found.passed
    assert found.max_difference == pytest.approx(2 * np.abs(features).max())
    assert parity((logits, features), (logits, features), labels).passed


def test_both_predictors_give_every_output() -> None:
    net, inputs = network("two_inputs")
    graph, spec = trace(net, *inputs)
    model = export_onnx(graph, inputs, spec, opset=17)
    with torch.no_grad():
        expected = net(*inputs).numpy()
    (in_torch,), (in_onnx,) = torch_predictor(graph)(inputs), onnx_predictor(model, spec)(inputs)
    assert np.allclose(in_torch, expected, atol=1e-6)
    assert np.allclose(in_onnx, expected, atol=1e-5)
