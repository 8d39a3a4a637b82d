"""Rules on operators: which TensorRT knows, and of which opset."""

from __future__ import annotations

import onnx

from edgekd.export.quantized_graph import QuantizedGraph
from edgekd.export.tensorrt_rules.graph import Found, every_node

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
# In the list of 8.5 but not in that of 8.4, so not in 8.2 either, whose own list may be shorter.
# fmt: off
UNKNOWN_TO_8_4 = frozenset((
    "MeanVarianceNormalization", "Mod", "NonZero", "OneHot", "RandomNormal", "RandomNormalLike",
    "Reciprocal", "RoiAlign", "Shrink",
))
# fmt: on


def operators(graph: QuantizedGraph) -> Found:
    """Only operators that some TensorRT from 8.5 to 11 knows. Source: Operators.

    Integer operators (QLinearConv and the like) are among the unknown ones: TensorRT reads
    QuantizeLinear and DequantizeLinear only (Guide, "Explicit Quantization", "ONNX Support").
    """
    for node in every_node(graph.model.graph):
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


def unknown_to_oldest(model: bytes, opset: int) -> tuple[str, ...]:
    """Return what in ``model`` newer TensorRT knows and the oldest that reads ``opset`` does not.

    That is 8.5 (JetPack 5.1), and up to opset 13 TensorRT 8.2 (JetPack 4.6). Source: Operators.
    """
    unknown = UNKNOWN_TO_8_5 | (UNKNOWN_TO_8_4 if opset <= 13 else frozenset())
    found = {node.op_type for node in every_node(onnx.load_from_string(model).graph)}
    return tuple(sorted(found & unknown))
