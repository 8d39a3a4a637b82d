"""Rules on layers with weights: their scales, how they are stored, and biases."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import NodeProto, TensorProto

from edgekd.export.quantized_graph import QuantizedGraph
from edgekd.export.tensorrt_rules.graph import WEIGHTED, Found, attribute, in_blocks, quantized_type


def weight_scales(graph: QuantizedGraph) -> Found:
    """Weights have a scale for every output channel (or one for all).

    The axis is 0, and 1 for a transposed convolution. Matrix products count output features.
    Source: API (as many scales as the axis is long); Model Optimizer for the axes.
    """
    for layer, reader in _weight_readers(graph):
        if in_blocks(reader):
            continue
        steps = [reader, graph.made_by(reader.input[0], "QuantizeLinear")]
        weight = graph.constants.get(graph.source(reader))
        wanted = None if weight is None else _output_axis(graph, layer, len(weight.dims))
        if weight is None or wanted is None:
            continue
        for step in (s for s in steps if s is not None):
            scale = graph.value(step.input[1])
            if scale is None or scale.size == 1:
                continue
            axis = attribute(step, "axis", 1) % len(weight.dims)
            if axis != wanted or scale.size != weight.dims[wanted]:
                yield (
                    layer,
                    f"{scale.size} scales on axis {axis} of a weight of {list(weight.dims)}: "
                    f"use {weight.dims[wanted]} on axis {wanted}",
                )


def stored_weights(graph: QuantizedGraph) -> Found:
    """A quantized weight is stored: int8 behind DequantizeLinear, or float behind both steps.

    Source: Guide, "Explicit Quantization", "Quantized Weights". So integers that other operations
    turn into numbers are no quantized weight, nor is one that is computed.
    """
    for layer in graph.of(*WEIGHTED):
        name = layer.input[1]
        reader = graph.dequantizer(name)
        if reader is not None:
            computed = graph.source(reader) not in graph.constants
            if computed and layer.op_type != "MatMul":
                yield layer, "its quantized weight is computed: store it"
            continue
        while (node := graph.producer.get(name)) is not None and node.input:
            name = node.input[0]
        stored = graph.constants.get(name)
        if stored is not None and stored.data_type in (TensorProto.INT8, TensorProto.UINT8):
            yield layer, "its integer weight is not read by DequantizeLinear: use that"


def both_operands(graph: QuantizedGraph) -> Found:
    """A layer has quantizers on data and weight, or on neither; weights in blocks stand alone.

    Source: Guide, "Q/DQ Layer-Placement Recommendations" (quantize all inputs of weighted
    operations).
    """
    for layer in graph.of(*WEIGHTED):
        readers = [graph.dequantizer(name) for name in layer.input[:2]]
        found = [reader is not None for reader in readers]
        if sum(found) == 1 and not any(in_blocks(reader) for reader in readers if reader):
            missing = "weight" if found[0] else "data"
            yield layer, f"its {missing} is not quantized: quantize both operands or none"


def float_biases(graph: QuantizedGraph) -> Found:
    """Biases are float. Source: Operators (DequantizeLinear reads INT8, no INT32)."""
    biases = {n.input[2] for n in graph.of("Conv", "ConvTranspose", "Gemm") if len(n.input) > 2}
    for node in graph.of("DequantizeLinear"):
        if node.output[0] in biases or quantized_type(graph, node) == TensorProto.INT32:
            yield node, "dequantizes a bias: store the bias in float"


def _weight_readers(graph: QuantizedGraph) -> Iterator[tuple[NodeProto, NodeProto]]:
    """Yield every layer with a quantized weight, and the step that dequantizes the weight."""
    for layer in graph.of(*WEIGHTED):
        reader = graph.dequantizer(layer.input[1])
        if reader is not None:
            yield layer, reader


def _output_axis(graph: QuantizedGraph, layer: NodeProto, rank: int) -> int | None:
    """Return which axis of the stored weight is that of the output channels, None if not clear.

    A transposition between the stored weight and the layer is followed, other moves are not.
    """
    match layer.op_type:
        case "Conv":
            axis = 0
        case "ConvTranspose":
            axis = 1
        case "Gemm":
            axis = 0 if attribute(layer, "transB", 0) else 1
        case _:
            axis = rank - 1
    name = layer.input[1]
    while (node := graph.producer.get(name)) is not None and node.op_type != "DequantizeLinear":
        if node.op_type == "Transpose":
            given = next((list(a.ints) for a in node.attribute if a.name == "perm"), None)
            axis = (given or list(range(rank))[::-1])[axis]
        elif node.op_type != "Identity":
            return None
        name = node.input[0]
    return axis
