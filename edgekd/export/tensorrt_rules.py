"""What TensorRT asks of a quantized graph, checked on the written ONNX file without TensorRT.

The rules hold for every version from 8.5 to 11. Each says where it comes from:

- Guide: NVIDIA, TensorRT documentation, "Working with Quantized Types", with the section.
- API: NVIDIA, TensorRT API reference, IQuantizeLayer and IDequantizeLayer.
- Operators: ``docs/operators.md`` of onnx/onnx-tensorrt, the parser, in its releases for TensorRT
  8.5 and 10.15.
- Model Optimizer: NVIDIA's own quantizer, ``modelopt/onnx/quantization``.

Some broken rules make TensorRT refuse the graph, others make it slower than it need be; both are
violations. What no document says is not checked, so a graph that passes may still be refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto

from edgekd.export.quantized_graph import QuantizedGraph

NEWEST_OPSET = 17  # of TensorRT 8.5 and 8.6
OPSET_OF_BLOCKS = 21  # the first in which a block of values shares a scale
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# Neither in the 8.5 nor in the 10.15 list of operators; tests ask the parser of TensorRT 11, too.
# fmt: off
UNKNOWN_OPERATORS = frozenset((
    "Bernoulli", "BitShift", "Compress", "ConcatFromSequence", "ConvInteger", "DFT", "Det",
    "DynamicQuantizeLinear", "MatMulInteger", "MaxRoiPool", "MaxUnpool", "MelWeightMatrix",
    "Multinomial", "NegativeLogLikelihoodLoss", "Optional", "OptionalGetElement",
    "OptionalHasElement", "QLinearConv", "QLinearMatMul", "SequenceAt", "SequenceConstruct",
    "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength", "SequenceMap",
    "SoftmaxCrossEntropyLoss", "SplitToSequence", "StringNormalizer", "TfIdfVectorizer", "Unique",
))
# fmt: on
# In the list of 10.15 but not in that of 8.5.
UNKNOWN_TO_8_5 = frozenset(("Hardmax", "IsInf", "LayerNormalization", "STFT"))
ACTIVATIONS = ("Relu", "Clip")


@dataclass(frozen=True)
class Violation:
    """A broken rule: its name, the node that breaks it, what is wrong and what to do."""

    rule: str
    node: str
    message: str

    def to_dict(self) -> dict[str, str]:
        """Return plain data for the manifest."""
        return asdict(self)


def check_tensorrt(model: bytes, *, opset: int = NEWEST_OPSET) -> tuple[Violation, ...]:
    """Return every place where ``model`` breaks a rule; none if TensorRT should take it well.

    ``opset`` is the newest that the target reads. Bodies of loops and branches are searched for
    unknown operators only, since no quantizers stand there.
    """
    graph = QuantizedGraph(onnx.load_from_string(model), opset)
    return tuple(
        Violation(name, node if isinstance(node, str) else _title(node), message)
        for name, rule in RULES.items()
        for node, message in rule(graph)
    )


def unknown_to_8_5(model: bytes) -> tuple[str, ...]:
    """Return the operators in ``model`` that newer TensorRT knows and 8.5 (JetPack 5.1) does not.

    Source: Operators.
    """
    found = {node.op_type for node in _every_node(onnx.load_from_string(model).graph)}
    return tuple(sorted(found & UNKNOWN_TO_8_5))


Found = Iterator[tuple[NodeProto | str, str]]


def operators(graph: QuantizedGraph) -> Found:
    """Only operators that some TensorRT from 8.5 to 11 knows. Source: Operators.

    Integer operators (QLinearConv and the like) are among the unknown ones: TensorRT reads
    QuantizeLinear and DequantizeLinear only (Guide, "Explicit Quantization", "ONNX Support").
    """
    for node in _every_node(graph.model.graph):
        if node.domain not in ("", "ai.onnx"):
            yield node, f"{node.op_type} is of {node.domain}: write it with ONNX's own operators"
        elif node.op_type in UNKNOWN_OPERATORS:
            yield node, f"TensorRT has no {node.op_type}: take it out of the model"


def newest_opset(graph: QuantizedGraph) -> Found:
    """No newer opset than the target reads. Source: Operators (8.5 and 8.6: 17)."""
    for entry in graph.model.opset_import:
        if entry.domain in ("", "ai.onnx") and entry.version > graph.newest_opset:
            message = f"opset {entry.version} is newer than {graph.newest_opset}: export it older"
            yield "the model", message


def signed_int8(graph: QuantizedGraph) -> Found:
    """Quantized tensors are int8. Source: API (8.5: int8 only); Operators.

    The parser reads uint8 with the zero point 0 as if it were int8, with a warning, so numbers
    above 127 are cut off. A QuantizeLinear without a zero point writes uint8 in ONNX and int8 in
    TensorRT. FP8 is younger than TensorRT 8.5. So are weights of 4 bits in blocks (Guide,
    "Quantized Weights": TensorRT 10), which need the opset that brought blocks. int32 is left to
    the rule on biases.
    """
    for node in graph.of("QuantizeLinear", "DequantizeLinear"):
        if graph.newest_opset >= OPSET_OF_BLOCKS and _in_blocks(node):
            continue
        kind = _quantized_type(graph, node)
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


def weight_scales(graph: QuantizedGraph) -> Found:
    """Weights have a scale for every output channel (or one for all).

    The axis is 0, and 1 for a transposed convolution. Matrix products count output features.
    Source: API (as many scales as the axis is long); Model Optimizer for the axes.
    """
    for layer, reader in _weight_readers(graph):
        steps = [reader, graph.made_by(reader.input[0], "QuantizeLinear")]
        if _in_blocks(reader):
            continue
        weight = graph.constants.get(graph.source(reader))
        wanted = None if weight is None else _output_axis(graph, layer, len(weight.dims))
        if weight is None or wanted is None:
            continue
        for step in (s for s in steps if s is not None):
            scale = graph.value(step.input[1])
            if scale is None or scale.size == 1:
                continue
            axis = _attribute(step, "axis", 1) % len(weight.dims)
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
        if sum(found) == 1 and not any(_in_blocks(reader) for reader in readers if reader):
            missing = "weight" if found[0] else "data"
            yield layer, f"its {missing} is not quantized: quantize both operands or none"


def float_biases(graph: QuantizedGraph) -> Found:
    """Biases are float. Source: Operators (DequantizeLinear reads INT8, no INT32)."""
    biases = {n.input[2] for n in graph.of("Conv", "ConvTranspose", "Gemm") if len(n.input) > 2}
    for node in graph.of("DequantizeLinear"):
        if node.output[0] in biases or _quantized_type(graph, node) == TensorProto.INT32:
            yield node, "dequantizes a bias: store the bias in float"


def unbroken_fusion(graph: QuantizedGraph) -> Found:
    """No quantizer between a layer and the BatchNorm, activation or sum that is fused with it.

    Source: Guide, "Q/DQ Layer-Placement Recommendations" (do not quantize the outputs of weighted
    operations; do not simulate batch normalization and ReLU fusions) and the figures on them.
    """
    for node in graph.of("BatchNormalization", *ACTIVATIONS):
        layer = graph.behind(node.input[0])
        if layer is not None and _ends_in_layer(graph, layer):
            yield node, f"a quantizer stands between {_title(layer)} and this: remove it"
    for node in graph.of("Add"):
        both = all(graph.made_by(name, "DequantizeLinear") for name in node.input)
        layer = next((c for name in node.input if (c := _quantized_branch(graph, name))), None)
        if both and layer is not None:
            yield node, f"a quantizer stands between {_title(layer)} and this sum: remove it"


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
            yield node, f"no operand is quantized: quantize the one beside {_title(layer)}"


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


def float_normalisation(graph: QuantizedGraph) -> Found:
    """LayerNormalization, InstanceNormalization and Softmax read float.

    They have no int8 kernel. Source: Operators (FP32, FP16, BF16); Model Optimizer leaves them in
    float (``op_types.py``).
    """
    for node in graph.of("LayerNormalization", "InstanceNormalization", "Softmax"):
        if any(graph.dequantizer(name) for name in node.input):
            yield node, f"{node.op_type} reads a quantized tensor: remove the quantizer"


RULES: dict[str, Callable[[QuantizedGraph], Found]] = {
    "operators": operators,
    "opset": newest_opset,
    "int8": signed_int8,
    "zero-points": zero_points,
    "scales": scales,
    "activation-scales": one_scale_for_activations,
    "weight-scales": weight_scales,
    "stored-weights": stored_weights,
    "both-operands": both_operands,
    "float-biases": float_biases,
    "fusion": unbroken_fusion,
    "residual-sums": residual_sums,
    "one-scale": one_scale_for_a_tensor,
    "float-normalisation": float_normalisation,
}


def _title(node: NodeProto) -> str:
    return node.name or f"{node.op_type} -> {', '.join(node.output)}"


def _every_node(graph: onnx.GraphProto) -> Iterator[NodeProto]:
    """Yield all nodes, those in the bodies of loops and branches too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for body in [attribute.g, *attribute.graphs]:
                yield from _every_node(body)


def _in_blocks(quantizer: NodeProto) -> bool:
    """Tell whether several values along an axis share a scale: weight-only quantization."""
    return _attribute(quantizer, "block_size", 0) > 0


def _attribute(node: NodeProto, name: str, default: int) -> int:
    return next((a.i for a in node.attribute if a.name == name), default)


def _quantized_type(graph: QuantizedGraph, node: NodeProto) -> int | None:
    """Return the ONNX type of the integers that a quantizer writes or reads, None if not known."""
    if len(node.input) > 2 and node.input[2]:
        zero_point = graph.constants.get(node.input[2])
        return None if zero_point is None else int(zero_point.data_type)
    if node.op_type == "QuantizeLinear":
        return _attribute(node, "output_dtype", 0) or int(TensorProto.UINT8)
    stored = graph.constants.get(node.input[0])
    return None if stored is None else int(stored.data_type)


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
            axis = 0 if _attribute(layer, "transB", 0) else 1
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
