"""The float rest of an ONNX graph in FP16, for runtimes that take every type from the graph.

Inputs and outputs stay FP32, and so do operations whose values leave the range of FP16 inside
(``RANGE_HUNGRY``), and layers with a constant or a scale that FP16 cannot hold.

The converter that comes with ONNX Runtime does not serve here: between two operations that stay in
FP32 it rounds to FP16, it writes the same cast twice where two of them read one tensor, and it
moves a constant that is out of range to the end of the range without a word.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper, shape_inference

from edgekd.errors import ExportError
from edgekd.export.fine_steps import widen_steps
from edgekd.export.half_graph import float_constant, rounded, too_fine, write_half
from edgekd.export.quantized_graph import QuantizedGraph

LARGEST = 65504  # of FP16
OLDEST_OPSET = 19  # the first whose quantizers take FP16
# Sums of many terms and functions that grow fast. The builder of TensorRT 8.6 and 10 itself warns
# of the overflow of Reduce and Pow of a LayerNorm in FP16, and asks for FP32 there.
# fmt: off
RANGE_HUNGRY = frozenset((
    "CumSum", "Exp", "GroupNormalization", "InstanceNormalization", "LayerNormalization", "Log",
    "LogSoftmax", "LpNormalization", "MeanVarianceNormalization", "Pow", "RMSNormalization",
    "Reciprocal", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMean",
    "ReduceProd", "ReduceSum", "ReduceSumSquare", "Softmax", "Softplus", "Sqrt",
))
# fmt: on
PREPARING = ("Sub", "Mul", "Div", "Neg")  # what makes a number ready for a range-hungry operation
ELEMENTWISE = (*PREPARING, "Add", "Clip", "Max", "Min", "Where")
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
TABLES = (*WEIGHTED, "Gather")  # their constants are many numbers that count together


@dataclass(frozen=True)
class Half:
    """A graph in FP16, and why the layers of ``kept`` (by name) stayed in FP32."""

    model: bytes
    kept: dict[str, str] = field(default_factory=dict)


def to_half(model: bytes) -> Half:
    """Return ``model`` with its float rest in FP16, and what did not fit into it.

    Weights, scales and biases are rounded to the nearest FP16 number. A quantizer takes the type
    of the tensor that it reads, and its second half the type that its readers want, so that no
    cast stands beside it.

    Raises ExportError for an opset before 19 and for graphs with branches or loops.
    """
    proto = shape_inference.infer_shapes(onnx.load_from_string(model), strict_mode=True)
    _store_constants(proto.graph)
    widen_steps(proto.graph)
    graph = QuantizedGraph(proto)
    _check(graph)
    unfit = dict(_unfit(graph))
    write_half(graph, _wide(graph, unfit))
    onnx.checker.check_model(proto, full_check=True)
    return Half(bytes(proto.SerializeToString(deterministic=True)), unfit)


def _check(graph: QuantizedGraph) -> None:
    if graph.opset < OLDEST_OPSET:
        raise ExportError(
            f"FP16 needs ONNX opset {OLDEST_OPSET} or newer, not {graph.opset}: raise 'opset' "
            "in the device profile or set 'float_type: float32'"
        )
    for node in graph.nodes:
        if any(a.HasField("g") or a.graphs for a in node.attribute):
            raise ExportError(
                f"{node.op_type} ({node.name}) has a graph inside, which cannot become FP16: use a "
                "device profile with 'float_type: float32'"
            )


def _store_constants(graph: onnx.GraphProto) -> None:
    """Turn Constant nodes into initializers, so that there is one kind of stored number."""
    for node in [n for n in graph.node if n.op_type == "Constant"]:
        (attribute,) = node.attribute
        value = helper.get_attribute_value(attribute)
        if not isinstance(value, TensorProto):
            kind = np.float32 if "float" in attribute.name else np.int64
            value = numpy_helper.from_array(np.asarray(value, kind))
        stored = graph.initializer.add()
        stored.CopyFrom(value)
        stored.name = node.output[0]
        graph.node.remove(node)


def _unfit(graph: QuantizedGraph) -> Iterator[tuple[str, str]]:
    """Yield (layer, reason) for every node with a constant that FP16 cannot hold."""
    for node in graph.nodes:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            continue
        for name in node.input:
            reader = graph.dequantizer(name) if node.op_type in WEIGHTED else None
            if reader is not None and too_fine(graph, reader):
                yield node.name, "the steps of its integers are too fine for FP16"
            if reader is not None and (peak := _peak(graph, reader)) > LARGEST:
                yield node.name, f"its weights reach {peak:.3g}, more than FP16's {LARGEST}"
            value = float_constant(graph, name)
            if value is not None and (why := _out_of_range(value, node)):
                yield node.name, why


def _peak(graph: QuantizedGraph, reader: NodeProto) -> float:
    """Return the largest magnitude that stored codes stand for, 0 where codes are computed."""
    codes, steps = graph.value(reader.input[0]), graph.value(reader.input[1])
    if codes is None or steps is None:
        return 0.0
    return float(np.abs(codes.astype(np.float64)).max() * np.abs(steps.astype(np.float64)).max())


def _out_of_range(value: NDArray[np.float32], node: NodeProto) -> str:
    """Say what FP16 makes of a constant if that is not nearly the same, else nothing.

    Single weights and biases of a layer may vanish beside larger ones; any other constant may be
    a divisor.
    """
    finite = value[np.isfinite(value)]  # masks hold minus infinity, which FP16 has too
    half = rounded(finite)
    if not np.all(np.isfinite(half)):
        return f"its constant {np.abs(finite).max():.3g} is larger than FP16's 65504"
    lost = (half == 0) & (finite != 0)
    single = node.op_type not in TABLES
    if lost.any() and (single or not half.any()):
        return f"its constant {np.abs(finite[lost]).min():.3g} is 0 in FP16"
    return ""


def _wide(graph: QuantizedGraph, unfit: dict[str, str]) -> set[str]:
    """Return the names of all nodes that compute in FP32.

    An operation that only prepares numbers for these, as a square does for a mean, joins them.
    So do one between two of them and the quotient of two: rounding to FP16 in between could
    overflow where the whole does not.
    """
    wide = {n.name for n in graph.nodes if n.op_type in RANGE_HUNGRY} | set(unfit)
    wide |= {n.name for n in graph.of("QuantizeLinear") if too_fine(graph, n)}
    joined = True
    while joined:
        found = {n.name for n in graph.of(*ELEMENTWISE) if _joins(graph, n, wide)} - wide
        wide |= found
        joined = bool(found)
    return wide


def _joins(graph: QuantizedGraph, node: NodeProto, wide: set[str]) -> bool:
    makers = [graph.producer[name] for name in node.input if name in graph.producer]
    readers = graph.readers.get(node.output[0], [])
    after = bool(makers) and all(maker.name in wide for maker in makers)
    before = bool(readers) and all(reader.name in wide for reader in readers)
    before = before and node.output[0] not in graph.outputs
    return (before and (after or node.op_type in PREPARING)) or (after and node.op_type == "Div")
