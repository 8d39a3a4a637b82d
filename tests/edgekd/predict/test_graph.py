"""Kernels as the runtime launches them, with their shapes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.errors import ExportError
from edgekd.predict.builder import Builder
from edgekd.predict.graph import read_graph
from edgekd.predict.grid import calibration_network
from edgekd.predict.layers import add, conv, linear, reshape
from edgekd.predict.tensorrt import read_tensorrt


def residual(*, integer: bool = False) -> bytes:
    b = Builder(0, integer=integer)
    x = conv(b, b.input(1, 3, 8, 8), 16, 3)
    x = add(b, conv(b, x, 16, 3, act=None if not integer else ""), x, "Relu")
    x = b.op("GlobalAveragePool", [x], (1, 16, 1, 1), quantize=True)
    return b.finish(linear(b, reshape(b, x, (1, 16)), 10, gemm=True))


MACS = 8 * 8 * 16 * 9 * (3 + 16) + 160


def open_batch(model: bytes, *names: str) -> bytes:
    """Return the model with names for the first axes of its input."""
    loaded = onnx.load_from_string(model)
    for axis, name in zip(loaded.graph.input[0].type.tensor_type.shape.dim, names, strict=False):
        axis.dim_param = name
    return bytes(loaded.SerializeToString())


def mlp(*open_axes: str) -> bytes:
    weight = numpy_helper.from_array(np.ones((4, 6), np.float32), "w")
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [*open_axes, width])
        for name, width in (("x", 4), ("y", 6))
    ]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Relu", ["m"], ["y"])]
    graph = helper.make_graph(nodes, "mlp", ends[:1], ends[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("level", ["all", "extended"])
def test_an_activation_is_no_kernel_of_its_own(level) -> None:
    b = Builder(0)
    x = conv(b, b.input(1, 3, 8, 8), 16, 3)
    kernels = read_graph(b.finish(conv(b, x, 16, 3)), level)
    assert not [kernel for kernel in kernels if kernel.op == "Relu"]


def test_a_sum_is_part_of_a_convolution_where_the_runtime_lays_out_blocks() -> None:
    kernels = read_graph(residual(), "all")
    convolutions = [kernel for kernel in kernels if kernel.kind == "conv"]
    assert [(k.outer, k.window, k.arithmetic) for k in convolutions] == [(16, 9, "float32")] * 2
    assert sum(kernel.macs for kernel in kernels) >= MACS  # blocks of channels are filled up


def test_integer_layers_are_integer_kernels() -> None:
    kernels = read_graph(residual(integer=True), "all")
    assert {k.arithmetic for k in kernels if k.kind in ("conv", "matmul")} == {"int8"}
    assert sum(kernel.macs for kernel in kernels) == MACS
    assert {kernel.op for kernel in kernels} >= {"QuantizeLinear", "QLinearConv", "QLinearAdd"}


def test_tensorrt_folds_quantizers_and_fuses_pointwise() -> None:
    floats, integers = (read_tensorrt(residual(integer=integer)) for integer in (False, True))
    assert [kernel.kind for kernel in floats] == ["conv", "conv", "globalpool", "matmul"]
    weighted = [k for k in integers if k.macs]
    assert [k.arithmetic for k in weighted] == ["int8"] * 3
    assert [k.arithmetic for k in floats] == ["float16"] * 4
    assert sum(k.macs for k in integers) == sum(k.macs for k in floats) == MACS
    assert weighted[1].weights < floats[1].weights


def test_the_open_batch_is_fixed() -> None:
    one, four = (read_graph(mlp("batch"), "all", batch=batch) for batch in (1, 4))
    assert [kernel.macs for kernel in one] == [24, 0]
    assert [kernel.macs for kernel in four] == [96, 0]
    assert four[0].weights == one[0].weights


def test_other_open_axes_are_asked_for() -> None:
    with pytest.raises(ExportError, match=r"axis 1 of input 'x' is open.*--input-shape x:1,N,4"):
        read_graph(mlp("batch", "tokens"), "all")
    found = read_graph(mlp("batch", "tokens"), "all", shapes={"x": (1, 5, 4)})
    assert found[0].macs == 120


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shapes": {"z": (1, 4)}}, "no input 'z'; it has x"),
        ({"shapes": {"x": (1, 5)}}, r"not 1,5"),
        ({"shapes": {"x": (1,)}}, r"not 1$"),
    ],
)
def test_shapes_that_do_not_fit(options, message) -> None:
    with pytest.raises(ExportError, match=message):
        read_graph(mlp("batch"), "all", **options)


def test_a_fixed_batch_stays() -> None:
    with pytest.raises(ExportError, match="takes batches of 1, not of 4"):
        read_graph(residual(), "all", batch=4)


def test_what_is_no_model(tmp_path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"nothing")
    for read in (lambda: read_graph(path, "all"), lambda: read_tensorrt(path)):
        with pytest.raises(ExportError):
            read()


def test_the_grid_is_the_same_every_time_and_can_be_read() -> None:
    for number in range(6):
        name, model = calibration_network(0, number)
        assert (name, model) == calibration_network(0, number)
        assert read_graph(model, "all")
    assert calibration_network(1, 0)[1] != calibration_network(0, 0)[1]
