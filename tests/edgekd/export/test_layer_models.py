"""Models of equal layers: they run, and on the kernels that real networks get."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.bench.layers import LayerShape
from edgekd.export.layer_models import layer_model

CONV = LayerShape("conv", 16, 16, (8, 8), (3, 3), (1, 1), (1, 1), (1, 1))
SHAPES = [
    CONV,
    LayerShape("conv", 8, 12, (7, 9), (3, 1), (2, 1), (1, 0), (1, 2), groups=4),
    LayerShape("conv", 4, 6, (11,), (3,), (2,), (1,), (1,)),
    LayerShape("conv_transpose", 4, 6, (5, 5), (3, 3), (2, 2), (1, 1), (1, 1), (1, 1), groups=2),
    LayerShape("linear", 12, 5, (7,)),
    LayerShape("matmul", 8, 7, (7,), groups=3),
]


def session(content: bytes, optimized: Path | None = None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape.op}-{len(shape.size)}d")
@pytest.mark.parametrize("copies", [1, 3])
def test_runs_and_gives_the_output_size(shape: LayerShape, copies: int) -> None:
    content = layer_model(shape, copies)
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    model = session(content)
    feed = {x.name: np.ones(x.shape, np.float32) for x in model.get_inputs()}
    for result in model.run(None, feed):
        assert result.shape[-len(shape.size) :] == shape.output_size or shape.op in (
            "linear",
            "matmul",
        )
        assert shape.outputs in result.shape


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_output_size_is_onnx_runtimes(data: st.DataObject) -> None:
    number = st.integers(1, 3)
    size = data.draw(st.tuples(st.integers(8, 12), st.integers(8, 12)))
    axes = [data.draw(st.tuples(number, number)) for _ in range(3)]
    padding = data.draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    op = data.draw(st.sampled_from(["conv", "conv_transpose"]))
    kernel, stride, dilation = axes
    shape = LayerShape(op, 4, 8, size, kernel, stride, padding, dilation)
    if min(shape.output_size) < 1:
        return
    model = session(layer_model(shape, 1))
    (result,) = model.run(None, {"x": np.ones((1, 4, *size), np.float32)})
    assert result.shape == (1, 8, *shape.output_size)


def test_every_copy_has_its_own_weights() -> None:
    weights = [
        onnx.numpy_helper.to_array(tensor)
        for tensor in onnx.load_from_string(layer_model(CONV, 3)).graph.initializer
        if tensor.name.startswith("w")
    ]
    assert len(weights) == 3
    assert not np.array_equal(weights[0], weights[1])


@pytest.mark.skipif(platform.machine() != "x86_64", reason="blocked kernels are x86-64's")
@pytest.mark.parametrize(("inputs", "outputs"), [(16, 16), (24, 40), (8, 16), (64, 8)])
def test_convolutions_run_on_blocked_kernels(inputs: int, outputs: int, tmp_path: Path) -> None:
    """As in a residual network: blocked layout within, the sums inside the convolutions."""
    shape = LayerShape("conv", inputs, outputs, (8, 8), (3, 3), (1, 1), (1, 1), (1, 1))
    path = tmp_path / "optimized.onnx"
    session(layer_model(shape, 4), path)
    nodes = onnx.load(path).graph.node
    convs = [node for node in nodes if node.op_type == "Conv"]
    assert [node.domain for node in convs] == ["com.microsoft.nchwc"] * 4
    assert not [node for node in nodes if node.op_type == "Add"]
    assert sum(node.op_type.startswith("Reorder") for node in nodes) <= 2
