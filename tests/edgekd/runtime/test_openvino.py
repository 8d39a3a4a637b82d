"""OpenVINO behind the same ``load``: same answers, explicit precision, nothing taken silently."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
from marks import with_slow
from onnx import TensorProto, helper

from edgekd.errors import BundleError, DataError
from edgekd.runtime import load, openvino

needs_openvino = pytest.mark.skipif(
    not openvino.is_installed(), reason='needs OpenVINO: pip install "edgekd[openvino]"'
)


def batch(n: int = 4) -> np.ndarray:
    return np.random.default_rng(n).normal(size=(n, 3, 2, 2)).astype(np.float32)


@pytest.fixture
def needs_bf16() -> None:
    if not openvino.has_bf16():
        pytest.skip("this processor has no bf16 instructions")


@needs_openvino
def test_computes_in_f32_unless_told_otherwise(bundle: Path, weight: np.ndarray) -> None:
    """bf16 would be off by about 1e-2 here, and is OpenVINO's own default where there is AMX."""
    for precision in (None, "f32"):
        model = load(bundle, runtime="openvino", precision=precision, threads=1)
        for n in (4, 1, 7, 4):
            x = batch(n)
            np.testing.assert_allclose(model(x), x.reshape(n, -1) @ weight, rtol=1e-4, atol=1e-5)
    baseline = load(bundle, "baseline", runtime="openvino")
    np.testing.assert_allclose(baseline(x), 2 * x.reshape(4, -1) @ weight, rtol=1e-4, atol=1e-5)


@needs_openvino
def test_bf16_is_close_and_not_f32(needs_bf16: None, bundle: Path) -> None:
    x = batch(64)
    exact, rough = load(bundle)(x), load(bundle, runtime="openvino", precision="bf16")(x)
    assert 1e-4 < np.abs(exact - rough).max() < 0.1


@needs_openvino
def test_results_are_the_callers_own(bundle: Path) -> None:
    model = load(bundle, runtime="openvino")
    first = model(batch(4))
    kept = first.copy()
    model(batch(5)), model(np.zeros((4, 3, 2, 2), np.float32))
    np.testing.assert_array_equal(first, kept)


@needs_openvino
def test_takes_arrays_that_are_not_contiguous(bundle: Path) -> None:
    x = batch(8)
    strided = x.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)[::2]
    model = load(bundle, runtime="openvino")
    np.testing.assert_array_equal(model(strided), model(x[::2].copy()))


@needs_openvino
def test_several_inputs_and_outputs(pair_bundle: Path) -> None:
    model = load(pair_bundle, runtime="openvino")
    a, b = np.ones((2, 3), np.float32), np.full((2, 3), 2, np.float32)
    for result in (model(a, b), model(b=b, a=a)):
        assert list(result) == ["total", "gap"]
        np.testing.assert_array_equal(result["gap"], a - b)
    with pytest.raises(DataError, match="cannot run on this input") as caught:
        model(a, np.ones((5, 3), np.float32))
    assert "\n" not in str(caught.value)
    np.testing.assert_array_equal(model(a, b)["total"], a + b)  # a failed call leaves no trace


@needs_openvino
def test_names_are_those_of_the_file_where_a_tensor_has_several() -> None:
    float_nx3 = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in "xyz"]
    nodes = [
        helper.make_node("Identity", ["x"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Identity", ["b"], ["y"]),
        helper.make_node("Identity", ["b"], ["z"]),
    ]
    graph = helper.make_graph(nodes, "aliases", float_nx3[:1], float_nx3[1:])
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    session = openvino.open_openvino(model)
    assert [tensor.name for tensor in (*session.inputs, *session.outputs)] == ["x", "y", "z"]
    x = np.array([[-1, 0, 2]], np.float32)
    for output in session.run(["z", "y"], {"x": x}):
        np.testing.assert_array_equal(output, np.maximum(x, 0))


@needs_openvino
def test_threads_share_a_model(bundle: Path) -> None:
    model = load(bundle, runtime="openvino", threads=1)
    inputs = [batch(n + 1) for n in range(4)]
    expected = [model(x) for x in inputs]
    equal: list[bool] = []

    def work(i: int) -> None:
        equal.extend(np.array_equal(model(inputs[i]), expected[i]) for _ in range(50))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(equal) == 200
    assert all(equal)


@needs_openvino
def test_opens_what_was_deployed(bundle: Path, rewrite: Any, weight: np.ndarray) -> None:
    rewrite({"deployment": {"model": "baseline", "runtime": "openvino", "precision": "f32"}})
    x = batch()
    twice = 2 * x.reshape(4, -1) @ weight
    np.testing.assert_allclose(load(bundle)(x), twice, rtol=1e-4, atol=1e-5)
    assert type(load(bundle)._session).__name__ == "OpenVINOSession"
    named = load(bundle, "compressed")  # a role without a runtime means ONNX Runtime
    np.testing.assert_allclose(named(x), twice / 2, rtol=1e-5)
    assert type(named._session).__name__ == "OnnxRuntimeSession"


def test_a_missing_openvino_is_named_and_never_replaced(
    bundle: Path, rewrite: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    openvino._core.cache_clear()
    monkeypatch.setitem(sys.modules, "openvino", None)
    rewrite({"deployment": {"model": "baseline", "runtime": "openvino", "precision": "bf16"}})
    for arguments in ({}, {"runtime": "openvino"}):
        with pytest.raises(BundleError, match=r"not installed.*edgekd\[openvino\].*onnxruntime"):
            load(bundle, **arguments)
    assert load(bundle, runtime="onnxruntime")(batch()).shape == (4, 5)


@needs_openvino
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"runtime": "openvino", "precision": "f16"}, "f32, bf16, not 'f16'"),
        ({"runtime": "openvino", "threads": 0}, "threads must be 1 or more"),
        ({"runtime": "openvino", "providers": ["CPUExecutionProvider"]}, "leave them out"),
        (
            {"runtime": "tflite"},
            "no runtime 'tflite', only onnxruntime, onnxruntime-cuda, openvino",
        ),
        ({"precision": "bf16"}, 'not in bf16; for bf16 choose runtime="openvino"'),
    ],
)
def test_refuses_what_cannot_be_met(bundle: Path, arguments: Any, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        load(bundle, **arguments)


@needs_openvino
def test_refuses_bf16_where_the_processor_has_none(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino, "has_bf16", lambda: False)
    with pytest.raises(BundleError, match='no bf16 instructions; use precision="f32"'):
        load(bundle, runtime="openvino", precision="bf16")


def test_refuses_a_bundle_for_tensorrt(bundle: Path, rewrite: Any) -> None:
    rewrite({"target": {"name": "jetson-orin-nano", "runtime": "tensorrt"}})
    with pytest.raises(BundleError, match=r"written for tensorrt.*--target cpu"):
        load(bundle, runtime="openvino")


@pytest.mark.parametrize(
    ("deployment", "message"),
    [
        ({"model": "pruned", "runtime": "openvino"}, "deployment.model must be one of"),
        ({"model": "baseline"}, "deployment.runtime must be a text"),
        ({"model": "baseline", "runtime": "openvino", "precision": 8}, "deployment.precision"),
        ("openvino", "deployment must be a JSON object"),
    ],
)
def test_refuses_a_deployment_that_says_nothing(
    bundle: Path, rewrite: Any, deployment: Any, message: str
) -> None:
    rewrite({"deployment": deployment})
    with pytest.raises(BundleError, match=message):
        load(bundle)


@needs_openvino
def test_garbage_is_refused_in_one_line() -> None:
    with pytest.raises(BundleError, match="OpenVINO cannot open it") as caught:
        openvino.open_openvino(b"not a model")
    assert "\n" not in str(caught.value)


@needs_openvino
@pytest.mark.parametrize("make", with_slow([networks.ResNet, networks.Mobile], [networks.Mobile]))
def test_quantized_graphs_run_on_integers(make: Any) -> None:
    """The graph written for ONNX Runtime: uint8 activations, int8 weights, int32 biases."""
    x = networks.samples(32, 3, 8, 8)
    quantized = networks.quantize(networks.build(make), x)
    model = quantized.onnx()
    session = openvino.open_openvino(model, "f32")
    precisions = session.layer_precisions()
    assert precisions and set(precisions) <= {"u8", "i8"}
    (here,) = session.run([session.outputs[0].name], {session.inputs[0].name: x.numpy()})
    (there,) = networks.run_onnx(model, quantized.spec, x)
    assert networks.cosine(here, there) > 0.999  # another rounding of the same integers
    floats = openvino.open_openvino(
        networks.export_onnx(quantized.graph, (x[:2],), quantized.spec, opset=17)
    )
    assert set(floats.layer_precisions()) == {"f32"}


@needs_openvino
def test_the_import_reports_nothing(run_python: Any) -> None:
    code = (
        "import sys; from edgekd.runtime import openvino\n"
        "assert 'openvino' not in sys.modules, 'imported early'\n"
        "print(openvino.version(), 'openvino_telemetry' in sys.modules)\n"
        "import openvino; openvino.convert_model"
    )
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[1] == "False"
