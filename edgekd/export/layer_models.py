"""ONNX models of nothing but equal layers, for timing one of them (``edgekd.bench.layers``)."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from edgekd.bench.layers import LayerShape

_OPSET, _IR = 17, 8


def layer_model(shape: LayerShape, copies: int) -> bytes:
    """Return an ONNX model that runs ``copies`` layers of ``shape``, each with its own weights.

    All layers read the same input. Where ONNX Runtime computes ``layer(x) + y`` in one kernel (a
    convolution of images, a Gemm), they form one chain of such sums, as residual blocks do;
    otherwise every layer has an output of the model, since a sum would be time of its own.
    """
    builder = _Builder(shape)
    for index in range(copies):
        builder.add(index)
    graph = helper.make_graph(
        builder.nodes, "layers", builder.inputs, builder.outputs(), builder.weights
    )
    opsets = [helper.make_opsetid("", _OPSET)]
    content: bytes = helper.make_model(
        graph, opset_imports=opsets, ir_version=_IR
    ).SerializeToString()
    return content


class _Builder:
    def __init__(self, shape: LayerShape) -> None:
        self.shape = shape
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []
        self.names: list[str] = []  # of what the layers computed
        self.inputs = [_value("x", _operand(shape))]
        if shape.op == "matmul":
            self.inputs.append(_value("w", (shape.groups, shape.inputs, shape.outputs)))
        self._rng = np.random.default_rng(0)

    def add(self, index: int) -> None:
        """Add one layer."""
        result = f"y{index}"
        match self.shape.op:
            case "matmul":
                self._node("MatMul", ["x", "w"], result)
            case "linear":
                weight = self._weight(f"w{index}", (self.shape.inputs, self.shape.outputs))
                before = self.names[-1:] or [self._weight("bias", (self.shape.outputs,))]
                self._node("Gemm", ["x", weight, *before], result)
            case "conv":
                self._conv(index, result)
            case "conv_transpose":
                kernel = (self.shape.outputs // self.shape.groups, *self.shape.kernel)
                weight = self._weight(f"w{index}", (self.shape.inputs, *kernel))
                more = self.shape.output_padding or [0] * len(self.shape.size)
                attributes = {**_attributes(self.shape), "output_padding": list(more)}
                self._node("ConvTranspose", ["x", weight], result, **attributes)
        self.names.append(result)

    def outputs(self) -> list[ValueInfoProto]:
        """Return the model's outputs."""
        shape = _result(self.shape)
        names = self.names[-1:] if _sums(self.shape) else self.names
        return [_value(name, shape) for name in names]

    def _conv(self, index: int, result: str) -> None:
        kernel = (self.shape.inputs // self.shape.groups, *self.shape.kernel)
        weight = self._weight(f"w{index}", (self.shape.outputs, *kernel))
        bias = self._weight(f"b{index}", (self.shape.outputs,))
        if not _sums(self.shape) or not self.names:
            self._node("Conv", ["x", weight, bias], result, **_attributes(self.shape))
            return
        self._node("Conv", ["x", weight, bias], f"c{index}", **_attributes(self.shape))
        self._node("Add", [f"c{index}", self.names[-1]], result)

    def _node(self, op: str, reads: list[str], result: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(op, reads, [result], **attributes))

    def _weight(self, name: str, shape: tuple[int, ...]) -> str:
        values = self._rng.standard_normal(shape, np.float32)
        self.weights.append(numpy_helper.from_array(values, name))
        return name


def _sums(shape: LayerShape) -> bool:
    return shape.op == "linear" or (shape.op == "conv" and len(shape.size) == 2)


def _attributes(shape: LayerShape) -> dict[str, Any]:
    return {
        "kernel_shape": list(shape.kernel),
        "strides": list(shape.stride),
        "pads": [*shape.padding, *shape.padding],
        "dilations": list(shape.dilation),
        "group": shape.groups,
    }


def _operand(shape: LayerShape) -> tuple[int, ...]:
    match shape.op:
        case "matmul":
            return (shape.groups, *shape.size, shape.inputs)
        case "linear":
            return (*shape.size, shape.inputs)
        case _:
            return (1, shape.inputs, *shape.size)


def _result(shape: LayerShape) -> tuple[int, ...]:
    match shape.op:
        case "matmul":
            return (shape.groups, *shape.size, shape.outputs)
        case "linear":
            return (*shape.size, shape.outputs)
        case _:
            return (1, shape.outputs, *shape.output_size)


def _value(name: str, shape: tuple[int, ...]) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))
