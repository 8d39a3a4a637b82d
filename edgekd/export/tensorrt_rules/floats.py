"""Rules on FP16: what stays in FP32, and which type a scale has.

TensorRT 11 takes every type from the graph; TensorRT 8.5 to 10 do so when asked (strong typing).
"""

from __future__ import annotations

from edgekd.export.quantized_graph import QuantizedGraph
from edgekd.export.tensorrt_rules.graph import FLOAT16, Found

# fmt: off
IN_FLOAT32 = (
    "GroupNormalization", "InstanceNormalization", "LayerNormalization", "LogSoftmax", "Pow",
    "RMSNormalization", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMean",
    "ReduceProd", "ReduceSum", "ReduceSumSquare", "Softmax",
)
# fmt: on
FIRST_OPSET = 19  # of scales in FP16


def range_in_float32(graph: QuantizedGraph) -> Found:
    """Normalisation, softmax, reductions and powers compute in FP32.

    Their inner values leave FP16's range. Source: a warning of TensorRT's own builder (8.6 to 10:
    layernorm with FP16 Reduce or Pow may overflow, force FP32); NVIDIA/TensorRT issue 2781.
    """
    for node in graph.of(*IN_FLOAT32):
        if graph.types.get(node.input[0]) == FLOAT16:
            yield node, f"{node.op_type} computes in FP16: cast its input to FP32"


def float16_scales(graph: QuantizedGraph) -> Found:
    """A quantizer's scale has the type of the tensor that it reads, and FP16 needs opset 19.

    Source: API (scale and input have one type); ONNX, QuantizeLinear and DequantizeLinear (opset
    19 is the first with FP16, and the scale decides what is written).
    """
    for node in graph.of("QuantizeLinear", "DequantizeLinear"):
        scale, data = (graph.types.get(name) for name in (node.input[1], node.input[0]))
        if scale == FLOAT16 and graph.opset < FIRST_OPSET:
            yield node, f"its scale is FP16 in opset {graph.opset}: export opset {FIRST_OPSET}"
        elif node.op_type == "QuantizeLinear" and None not in (scale, data) and scale != data:
            yield node, "its scale is of another type than its data: store it in that type"
