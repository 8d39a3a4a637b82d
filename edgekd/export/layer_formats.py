"""In which bits a written ONNX graph keeps the operands of a layer, and with which steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, TensorProto

from edgekd.export.quantized_graph import QuantizedGraph

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
FLOATS = {TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16", TensorProto.FLOAT: "fp32"}


@dataclass(frozen=True)
class LayerFormat:
    """Bits and steps of one layer.

    ``bits``: ``w8a8`` or ``w4a8`` for an integer kernel with a stored weight, ``a8`` for one
    without (sums, products of two activations), ``w4a16`` for a weight of 4 bits with activations
    in float, otherwise the float type. ``weight_scales``: smallest and largest step of the weight;
    ``input_scale``: step of the first operand. Both are None where there is none.
    """

    bits: str
    weight_scales: tuple[float, float] | None = None
    input_scale: float | None = None


def layer_format(graph: QuantizedGraph, node: NodeProto, *, integer: bool) -> LayerFormat:
    """Return the format of ``node``, of which the caller knows whether integers run it."""
    quantizer = graph.dequantizer(node.input[0])
    step = None if quantizer is None else graph.value(quantizer.input[1])
    source = float(step.reshape(-1)[0]) if step is not None and step.size == 1 else None
    reader = graph.dequantizer(node.input[1]) if node.op_type in LAYERS else None
    codes = None if reader is None else graph.constants.get(graph.source(reader))
    if reader is None or codes is None:
        return LayerFormat("a8" if integer else _float_type(graph, node), None, source)
    steps = graph.value(reader.input[1])
    scales = None if steps is None else (float(np.min(steps)), float(np.max(steps)))
    if integer:
        return LayerFormat(f"w{_stored_bits(graph, codes)}a8", scales, source)
    weight_only = quantizer is None and codes.data_type == TensorProto.INT4
    return LayerFormat("w4a16" if weight_only else _float_type(graph, node), scales, source)


def _stored_bits(graph: QuantizedGraph, codes: TensorProto) -> int:
    """Return 4 for codes that 4 bits hold, in whatever type: integer kernels read bytes."""
    values = graph.value(codes.name)
    small = values is not None and values.size > 0 and np.abs(values.astype(np.int16)).max() <= 7
    return 4 if small else 8


def _float_type(graph: QuantizedGraph, node: NodeProto) -> str:
    """Return the type in which a layer in float computes, by the first tensor of a known type."""
    for name in (*node.input[:2], *node.output):
        found = FLOATS.get(graph.types.get(name, 0))
        if found:
            return found
    return "fp32"
