"""Rules on the numbers of a quantizer: integer type, zero points and scales."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from edgekd.export.quantized_graph import QuantizedGraph
from edgekd.export.tensorrt_rules.graph import Found, in_blocks, quantized_type

OPSET_OF_BLOCKS = 21  # the first in which a block of values shares a scale


def signed_int8(graph: QuantizedGraph) -> Found:
    """Quantized tensors are int8. Source: API (8.5: int8 only); Operators.

    The parser reads uint8 with the zero point 0 as if it were int8, with a warning, so numbers
    above 127 are cut off. A QuantizeLinear without a zero point writes uint8 in ONNX and int8 in
    TensorRT. FP8 is younger than TensorRT 8.5. So are weights of 4 bits in blocks (Guide,
    "Quantized Weights": TensorRT 10), which need the opset that brought blocks. int32 is left to
    the rule on biases.
    """
    for node in graph.of("QuantizeLinear", "DequantizeLinear"):
        if graph.newest_opset >= OPSET_OF_BLOCKS and in_blocks(node):
            continue
        kind = quantized_type(graph, node)
        if kind not in (None, TensorProto.INT8, TensorProto.INT32):
            name = TensorProto.DataType.Name(kind).lower()
            yield node, f"quantizes to {name}: use int8 with a zero point of int8"


def zero_points(graph: QuantizedGraph) -> Found:
    """Every zero point is a constant 0.

    Source: API (a build-time constant with only zeros); Operators.
    """
    for node in graph.of("QuantizeLinear", "DequantizeLinear"):
        if len(node.input) < 3 or not node.input[2]:
            continue
        value = graph.value(node.input[2])
        if value is None:
            yield node, "its zero point is computed: store a 0"
        elif np.any(value):
            yield node, "its zero point is not 0: quantize symmetrically"


def scales(graph: QuantizedGraph) -> Found:
    """Scales are constant, positive and finite.

    Source: API (a build-time constant); the parser's own message ("Scale coefficients must all be
    positive"). It lets infinity pass, which makes every value 0 or not a number.
    """
    for node in graph.of("QuantizeLinear", "DequantizeLinear"):
        value = graph.value(node.input[1])
        if value is None:
            yield node, "its scale is computed: store it"
        elif not np.all(np.isfinite(value)) or not np.all(value > 0):  # type: ignore[operator]
            yield node, "its scale is not a positive finite number: calibrate again"


def one_scale_for_activations(graph: QuantizedGraph) -> Found:
    """Activations have one scale a tensor.

    Source: Guide, "Q/DQ Layer-Placement Recommendations" (per tensor for activations, per channel
    for weights).
    """
    for node in graph.of("QuantizeLinear", "DequantizeLinear"):
        scale = graph.value(node.input[1])
        computed = graph.source(node) not in graph.constants
        if computed and scale is not None and scale.size > 1:
            yield node, f"{scale.size} scales for a computed tensor: use one"


def one_scale_for_a_tensor(graph: QuantizedGraph) -> Found:
    """A tensor is not quantized with different scales.

    Each scale costs one more conversion and one more copy. Source: Guide, "Q/DQ Layer-Placement
    Recommendations"; Model Optimizer shares the quantizer of a branching tensor.
    """
    first: dict[str, NDArray[np.generic]] = {}
    for node in graph.of("QuantizeLinear"):
        scale = graph.value(node.input[1])
        if scale is None:
            continue
        known = first.setdefault(node.input[0], scale)
        if not np.array_equal(known, scale):
            yield node, f"{node.input[0]} is quantized with different scales: use one"
