"""Weights of 4 bits in groups, written as ONNX has them: INT4 and DequantizeLinear in blocks.

torch has no such type, so its program holds the codes as int8. ONNX Runtime makes one kernel
(``MatMulNBits``) of DequantizeLinear, the product behind it and its bias if the weight is stored as
``(inputs, outputs)`` with blocks along axis 0 and nothing transposes it in between. A Relu or Clip
directly behind the layer prevents that: the search for integer kernels takes it for a part of the
pattern. A Max or Min is not taken for one, so these stand there instead. (Rules in
``onnxruntime/core/optimizer/qdq_transformer`` of 1.31; tried one by one.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from onnxscript import opset21

from edgekd.quantize.convert import quantized


def _dequantize(
    codes: Any, scale: Any, _zero: Any, _low: int, _high: int, _dtype: int, size: int, _output: int
) -> Any:
    """Translate ``dequantize_per_channel_group``; all zero points are 0 and left out."""
    return opset21.DequantizeLinear(codes, scale, axis=1, block_size=size)


# For torch.onnx.export, which does not know the operator.
TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    quantized.dequantize_per_channel_group.default: _dequantize,
}


def store_int4(model: ir.Model) -> None:
    """Store the weights that are dequantized in blocks as INT4 ``(inputs, outputs)``, in place."""
    for node in model.graph:
        if node.op_type == "DequantizeLinear" and "block_size" in node.attributes:
            _store(model.graph, node)


def _store(graph: ir.Graph, node: ir.Node) -> None:
    codes, scale = node.inputs[:2]
    assert codes is not None and scale is not None
    assert codes.const_value is not None and scale.const_value is not None
    values, steps = codes.const_value.numpy().T, scale.const_value.numpy().T
    _replace(codes, ir.tensor(values.astype(ml_dtypes.int4), name=codes.name))
    _replace(scale, ir.tensor(steps.copy(), name=scale.name))
    node.attributes["axis"] = ir.AttrInt64("axis", 0)
    weight = node.outputs[0]
    weight.shape = ir.Shape(values.shape)
    for user, _ in list(weight.uses()):
        _read_transposed(graph, user, weight)


def _replace(stored: ir.Value, tensor: ir.TensorProtocol) -> None:
    stored.const_value = tensor
    stored.shape, stored.type = ir.Shape(tensor.shape.numpy()), ir.TensorType(tensor.dtype)


def _read_transposed(graph: ir.Graph, user: ir.Node, weight: ir.Value) -> None:
    """Let a reader of the weight take it as ``(inputs, outputs)``."""
    if user.op_type == "Gemm" and user.inputs[1] is weight:
        user.attributes["transB"] = ir.AttrInt64("transB", 0)
        layers = [user]
    else:
        assert user.op_type == "Transpose"  # a linear layer on more than two axes
        layers = [product for product, _ in user.outputs[0].uses()]
        user.outputs[0].replace_all_uses_with(weight)
        graph.remove(user, safe=True)
    for layer in layers:
        for reader, _ in list(layer.outputs[0].uses()):
            if reader.op_type in ("Relu", "Clip"):
                _replace_activation(graph, reader)


def _replace_activation(graph: ir.Graph, activation: ir.Node) -> None:
    """Write a Relu as a Max, and a Clip as a Max and a Min."""
    value, *limits = activation.inputs
    if activation.op_type == "Relu":
        limits = [_zero(graph, f"{activation.name}_zero")]
    result, nodes = activation.outputs[0], []
    for op, limit in zip(("Max", "Min"), limits, strict=False):
        if limit is not None:
            nodes.append(ir.node(op, [value, limit], name=f"{activation.name}_{op.lower()}"))
            value = nodes[-1].outputs[0]
            value.shape, value.type = result.shape, result.type
    assert nodes and value is not None
    name = result.name
    graph.insert_before(activation, nodes)
    result.replace_all_uses_with(value, replace_graph_outputs=result.is_graph_output())
    graph.remove(activation, safe=True)
    value.name = name


def _zero(graph: ir.Graph, name: str) -> ir.Value:
    tensor = ir.tensor(np.zeros((), np.float32), name=name)
    zero = ir.Value(
        name=name, shape=ir.Shape([]), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(zero)
    return zero
