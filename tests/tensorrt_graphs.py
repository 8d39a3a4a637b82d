"""Graphs for TensorRT: our own exports, a good block by hand, and ways to spoil it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import onnx
from networks import quantized
from onnx import TensorProto, helper, numpy_helper

from edgekd.export.half import to_half

Model = onnx.ModelProto


def exported(name: str, opset: int = 17) -> bytes:
    """Return a network of ``NETWORKS``, quantized for TensorRT, as edgekd writes it."""
    return quantized(name, "tensorrt").onnx(opset)


@cache
def exported_half(name: str) -> bytes:
    """Return the same in FP16, for TensorRT 11."""
    return to_half(exported(name, 20)).model


def good_block() -> Model:
    """Return a residual block as TensorRT wants it: conv, ReLU, conv, sum, ReLU.

    A pair of quantizers is called ``q_NAME`` and ``dq_NAME`` and reads NAME_scale and NAME_zero.
    """
    nodes = [
        *pair("x", "x"),
        dequantize("a_codes", "a", axis=0),
        helper.make_node("Conv", ["x_dq", "a_dq", "a_bias"], ["a"], "a", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["h"], "relu"),
        *pair("h", "h"),
        dequantize("b_codes", "b", axis=0),
        helper.make_node("Conv", ["h_dq", "b_dq"], ["b"], "b", pads=[1] * 4),
        helper.make_node("Add", ["b", "x_dq"], ["s"], "sum"),
        helper.make_node("Relu", ["s"], ["y"], "last"),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 4, 8, 8]) for n in "xy"]
    graph = helper.make_graph(nodes, "block", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    codes = np.random.default_rng(0).integers(-127, 128, (6, 6, 3, 3)).astype(np.int8)
    for name, scale, count in (("x", 0.02, 1), ("h", 0.03, 1), ("a", 0.001, 6), ("b", 0.002, 4)):
        set_scale(model, name, scale, count)
    store(model, "a_codes", codes[:, :4])
    store(model, "b_codes", codes[:4])
    store(model, "a_bias", np.full(6, 0.1, np.float32))
    return model


def pair(source: str, name: str) -> list[onnx.NodeProto]:
    quantize = helper.make_node(
        "QuantizeLinear", [source, f"{name}_scale", f"{name}_zero"], [f"{name}_q"], f"q_{name}"
    )
    return [quantize, dequantize(f"{name}_q", name)]


def dequantize(source: str, name: str, **attributes: int) -> onnx.NodeProto:
    inputs = [source, f"{name}_scale", f"{name}_zero"]
    return helper.make_node("DequantizeLinear", inputs, [f"{name}_dq"], f"dq_{name}", **attributes)


def set_scale(model: Model, name: str, scale: float, count: int = 1, dtype: Any = np.int8) -> None:
    """Store ``count`` scales and zero points; one becomes a scalar."""
    shape = () if count == 1 else (count,)
    store(model, f"{name}_scale", np.full(shape, scale, np.float32))
    store(model, f"{name}_zero", np.zeros(shape, dtype))


def store(model: Model, name: str, value: np.ndarray) -> None:
    kept = [tensor for tensor in model.graph.initializer if tensor.name != name]
    del model.graph.initializer[:]
    model.graph.initializer.extend([*kept, numpy_helper.from_array(value, name)])


def node(model: Model, name: str) -> onnx.NodeProto:
    (found,) = [node for node in model.graph.node if node.name == name]
    return found


def insert(model: Model, before: str, *nodes: onnx.NodeProto) -> None:
    place = [n.name for n in model.graph.node].index(before)
    for offset, added in enumerate(nodes):
        model.graph.node.insert(place + offset, added)


def insert_pair(model: Model, before: str, position: int, name: str = "new") -> None:
    """Quantize one operand of the node ``before``, for this reader only."""
    reader = node(model, before)
    insert(model, before, *pair(reader.input[position], name))
    reader = node(model, before)
    reader.input[position] = f"{name}_dq"
    set_scale(model, name, 0.05)


def uint8(model: Model) -> None:
    set_scale(model, "x", 0.02, dtype=np.uint8)


def asymmetric_uint8(model: Model) -> None:
    """Break two rules at once, as graphs for ONNX Runtime do."""
    uint8(model)
    store(model, "x_zero", np.array(128, np.uint8))


def no_zero_point(model: Model) -> None:
    del node(model, "q_x").input[2]


def shifted_zero_point(model: Model) -> None:
    store(model, "x_zero", np.array(3, np.int8))


def computed_zero_point(model: Model) -> None:
    insert(model, "q_x", helper.make_node("Identity", ["x_zero"], ["moved"], "move"))
    node(model, "q_x").input[2] = "moved"


def negative_scale(model: Model) -> None:
    store(model, "x_scale", np.array(-0.02, np.float32))


def infinite_scale(model: Model) -> None:
    store(model, "b_scale", np.array([1, 1, np.inf, 1], np.float32))


def computed_scale(model: Model) -> None:
    insert(model, "q_h", helper.make_node("ReduceMax", ["h"], ["max"], "max", keepdims=0))
    node(model, "q_h").input[1] = "max"


def scales_by_channel(model: Model) -> None:
    set_scale(model, "x", 0.02, count=4)


def wrong_axis(model: Model) -> None:
    node(model, "dq_a").attribute[0].i = 1
    set_scale(model, "a", 0.001, count=4)


def too_few_scales(model: Model) -> None:
    set_scale(model, "a", 0.001, count=3)


def transposed_convolution_on_axis_0(model: Model) -> None:
    insert(
        model, "sum", helper.make_node("ConvTranspose", ["h_dq", "t_dq"], ["b"], "t", pads=[1] * 4)
    )
    insert(model, "t", dequantize("t_codes", "t", axis=0))
    store(model, "t_codes", np.ones((6, 4, 3, 3), np.int8))
    set_scale(model, "t", 0.001, count=6)
    model.graph.node.remove(node(model, "b"))


def computed_weight(model: Model) -> None:
    set_scale(model, "b", 0.01)
    weight = helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 6, 3, 3])
    model.graph.input.append(weight)
    insert(model, "dq_b", pair("w", "b")[0])
    node(model, "dq_b").input[0] = "b_q"


def weight_decoded_by_hand(model: Model) -> None:
    cast = helper.make_node("Cast", ["a_codes"], ["a_float"], "cast", to=TensorProto.FLOAT)
    insert(model, "a", cast)
    node(model, "a").input[0] = "x"
    node(model, "a").input[1] = "a_float"


def float_weight(model: Model) -> None:
    node(model, "a").input[1] = "w"
    store(model, "w", np.ones((6, 4, 3, 3), np.float32))


def float_data(model: Model) -> None:
    node(model, "a").input[0] = "x"


def integer_bias(model: Model) -> None:
    store(model, "bias_codes", np.arange(6, dtype=np.int32))
    store(model, "bias_scale", np.full(6, 1e-4, np.float32))
    store(model, "bias_zero", np.zeros(6, np.int32))
    insert(model, "a", dequantize("bias_codes", "bias", axis=0))
    node(model, "a").input[2] = "bias_dq"


def quantizer_before_relu(model: Model) -> None:
    insert_pair(model, "relu", 0)


def quantizer_before_the_sum(model: Model) -> None:
    insert_pair(model, "sum", 0)


def quantizer_after_the_sum(model: Model) -> None:
    insert_pair(model, "last", 0)


def quantizer_before_batch_norm(model: Model) -> None:
    for name in ("gamma", "beta", "mean", "var"):
        store(model, name, np.ones(6, np.float32))
    inputs = ["a", "gamma", "beta", "mean", "var"]
    insert(model, "relu", helper.make_node("BatchNormalization", inputs, ["n"], "norm"))
    node(model, "relu").input[0] = "n"
    insert_pair(model, "norm", 0)


def float_shortcut(model: Model) -> None:
    node(model, "sum").input[1] = "x"


def two_scales(model: Model) -> None:
    node(model, "sum").input[1] = "x"
    insert_pair(model, "sum", 1)


def quantized_softmax(model: Model) -> None:
    node(model, "last").output[0] = "r"
    model.graph.node.append(helper.make_node("Softmax", ["r"], ["y"], "softmax"))
    insert_pair(model, "softmax", 0)


def softmax_in_float16(model: Model) -> None:
    """Compute the last operation in FP16, and softmax where ReLU was."""
    node(model, "last").output[0] = "r"
    model.graph.node.extend(
        [
            helper.make_node("Cast", ["r"], ["r_half"], "to_half", to=TensorProto.FLOAT16),
            helper.make_node("Softmax", ["r_half"], ["y_half"], "softmax"),
            helper.make_node("Cast", ["y_half"], ["y"], "back", to=TensorProto.FLOAT),
        ]
    )


def float16_scale(model: Model) -> None:
    """Give FP16 weights in an opset whose quantizers write FP32 only."""
    store(model, "a_scale", np.full(6, 0.001, np.float16))


def newer_opset(model: Model) -> None:
    model.opset_import[0].version = 18


def foreign_operator(model: Model) -> None:
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    last = node(model, "last")
    last.op_type, last.domain = "QuickGelu", "com.microsoft"


def unknown_operator(model: Model) -> None:
    node(model, "last").op_type = "Bernoulli"


# rule -> node that is named -> ways to break that rule there, and no other
SPOILED: tuple[tuple[str, str, Callable[[Model], None]], ...] = (
    ("operators", "last", foreign_operator),
    ("operators", "last", unknown_operator),
    ("opset", "the model", newer_opset),
    ("int8", "q_x", uint8),
    ("int8", "q_x", no_zero_point),
    ("zero-points", "q_x", shifted_zero_point),
    ("zero-points", "q_x", computed_zero_point),
    ("scales", "q_x", negative_scale),
    ("scales", "dq_b", infinite_scale),
    ("scales", "q_h", computed_scale),
    ("activation-scales", "q_x", scales_by_channel),
    ("weight-scales", "a", wrong_axis),
    ("weight-scales", "a", too_few_scales),
    ("weight-scales", "t", transposed_convolution_on_axis_0),
    ("stored-weights", "b", computed_weight),
    ("stored-weights", "a", weight_decoded_by_hand),
    ("both-operands", "a", float_weight),
    ("both-operands", "a", float_data),
    ("float-biases", "dq_bias", integer_bias),
    ("fusion", "relu", quantizer_before_relu),
    ("fusion", "sum", quantizer_before_the_sum),
    ("fusion", "last", quantizer_after_the_sum),
    ("fusion", "norm", quantizer_before_batch_norm),
    ("residual-sums", "sum", float_shortcut),
    ("one-scale", "q_new", two_scales),
    ("float-normalisation", "softmax", quantized_softmax),
    ("float16-range", "softmax", softmax_in_float16),
    ("float16-scales", "dq_a", float16_scale),
)


def spoiled(spoil: Callable[[Model], None]) -> bytes:
    model = good_block()
    spoil(model)
    return bytes(model.SerializeToString())
