"""What the rules ask of nodes, and how they say what they found."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import NodeProto, TensorProto

from edgekd.export.quantized_graph import QuantizedGraph

FLOAT16 = int(TensorProto.FLOAT16)
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
Found = Iterator[tuple[NodeProto | str, str]]  # the node, what is wrong: what to do


def title(node: NodeProto) -> str:
    """Return how a message names a node."""
    return node.name or f"{node.op_type} -> {', '.join(node.output)}"


def every_node(graph: onnx.GraphProto) -> Iterator[NodeProto]:
    """Yield all nodes, those in the bodies of loops and branches too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for body in [attribute.g, *attribute.graphs]:
                yield from every_node(body)


def in_blocks(quantizer: NodeProto) -> bool:
    """Tell whether several values along an axis share a scale: weight-only quantization."""
    return attribute(quantizer, "block_size", 0) > 0


def attribute(node: NodeProto, name: str, default: int) -> int:
    """Return an integer attribute."""
    return next((a.i for a in node.attribute if a.name == name), default)


def quantized_type(graph: QuantizedGraph, node: NodeProto) -> int | None:
    """Return the ONNX type of the integers that a quantizer writes or reads, None if not known."""
    if len(node.input) > 2 and node.input[2]:
        zero_point = graph.constants.get(node.input[2])
        return None if zero_point is None else int(zero_point.data_type)
    if node.op_type == "QuantizeLinear":
        return attribute(node, "output_dtype", 0) or int(TensorProto.UINT8)
    stored = graph.constants.get(node.input[0])
    return None if stored is None else int(stored.data_type)
