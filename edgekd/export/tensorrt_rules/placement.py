"""Rules on where quantizers stand: what TensorRT fuses stays together."""

from __future__ import annotations

from onnx import NodeProto

from edgekd.export.quantized_graph import QuantizedGraph
from edgekd.export.tensorrt_rules.graph import WEIGHTED, Found, title

ACTIVATIONS = ("Relu", "Clip")


def unbroken_fusion(graph: QuantizedGraph) -> Found:
    """No quantizer between a layer and the BatchNorm, activation or sum that is fused with it.

    Source: Guide, "Q/DQ Layer-Placement Recommendations" (do not quantize the outputs of weighted
    operations; do not simulate batch normalization and ReLU fusions) and the figures on them.
    """
    for node in graph.of("BatchNormalization", *ACTIVATIONS):
        layer = graph.behind(node.input[0])
        if layer is not None and _ends_in_layer(graph, layer):
            yield node, f"a quantizer stands between {title(layer)} and this: remove it"
    for node in graph.of("Add"):
        both = all(graph.made_by(name, "DequantizeLinear") for name in node.input)
        layer = next((c for name in node.input if (c := _quantized_branch(graph, name))), None)
        if both and layer is not None:
            yield node, f"a quantizer stands between {title(layer)} and this sum: remove it"


def residual_sums(graph: QuantizedGraph) -> Found:
    """A sum behind an integer convolution that only it reads has its other operand quantized.

    With a float operand the fused kernel writes float. Source: Guide, "Q/DQ Layer-Placement
    Recommendations" (quantize the residual input in skip connections).
    """
    for node in graph.of("Add"):
        if any(graph.dequantizer(n) or n in graph.constants for n in node.input):
            continue
        layer = next((c for name in node.input if (c := graph.integer_layer(name))), None)
        if layer is not None:
            yield node, f"no operand is quantized: quantize the one beside {title(layer)}"


def float_normalisation(graph: QuantizedGraph) -> Found:
    """LayerNormalization, InstanceNormalization and Softmax read float.

    They have no int8 kernel. Source: Operators (FP32, FP16, BF16); Model Optimizer leaves them in
    float (``op_types.py``).
    """
    for node in graph.of("LayerNormalization", "InstanceNormalization", "Softmax"):
        if any(graph.dequantizer(name) for name in node.input):
            yield node, f"{node.op_type} reads a quantized tensor: remove the quantizer"


def _ends_in_layer(graph: QuantizedGraph, node: NodeProto) -> bool:
    """Tell whether ``node`` is a layer, its BatchNorm, or a sum that a convolution ends in."""
    if node.op_type == "Add":
        return any(graph.integer_layer(name) for name in node.input)
    return node.op_type in (*WEIGHTED, "BatchNormalization")


def _quantized_branch(graph: QuantizedGraph, name: str) -> NodeProto | None:
    """Return the convolution behind an operand if only the operand's quantizer reads it."""
    layer = graph.behind(name)
    if layer is None or layer.op_type not in ("Conv", "ConvTranspose"):
        return None
    alone = graph.read_once(layer.output[0]) and graph.read_once(name)
    return layer if alone else None
