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

from collections.abc import Callable
from dataclasses import asdict, dataclass

import onnx

from edgekd.export.quantized_graph import QuantizedGraph
from edgekd.export.tensorrt_rules import floats, numbers, operators, placement, weights
from edgekd.export.tensorrt_rules.graph import Found, title

__all__ = ["RULES", "Violation", "check_tensorrt"]

NEWEST_OPSET = 17  # of TensorRT 8.5 and 8.6

RULES: dict[str, Callable[[QuantizedGraph], Found]] = {
    "operators": operators.operators,
    "opset": operators.newest_opset,
    "int8": numbers.signed_int8,
    "zero-points": numbers.zero_points,
    "scales": numbers.scales,
    "activation-scales": numbers.one_scale_for_activations,
    "weight-scales": weights.weight_scales,
    "stored-weights": weights.stored_weights,
    "both-operands": weights.both_operands,
    "float-biases": weights.float_biases,
    "fusion": placement.unbroken_fusion,
    "residual-sums": placement.residual_sums,
    "one-scale": numbers.one_scale_for_a_tensor,
    "float-normalisation": placement.float_normalisation,
    "float16-range": floats.range_in_float32,
    "float16-scales": floats.float16_scales,
}


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
        Violation(name, node if isinstance(node, str) else title(node), message)
        for name, rule in RULES.items()
        for node, message in rule(graph)
    )
