"""What ONNX Runtime really runs: its own optimised graph, read back layer by layer."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

from edgekd.errors import ExportError
from edgekd.export.layer_formats import LAYERS, layer_format
from edgekd.export.quantized_graph import QuantizedGraph

SUMS = ("Add", "Mul")
POOLINGS = ("AveragePool", "GlobalAveragePool", "ReduceMean")
INTEGER_KERNELS = (
    "QLinearConv",
    "QGemm",
    "QLinearMatMul",
    "MatMulIntegerToFloat",
    "QLinearAdd",
    "QLinearMul",
    "QLinearAveragePool",
    "QLinearGlobalAveragePool",
    "ConvInteger",
    "MatMulInteger",
    "DynamicQuantizeMatMul",
)


@dataclass(frozen=True)
class LayerKernel:
    """One layer of the exported graph and the kernel that runs it.

    ``precision`` is ``int8`` for an integer kernel, else ``float16`` or ``float32``; ``reason``
    says why a layer stayed in float. ``bits``, ``weight_scales`` and ``input_scale`` are those of
    ``LayerFormat``.
    """

    name: str
    op: str
    kernel: str
    precision: str
    bits: str
    weight_scales: tuple[float, float] | None = None
    input_scale: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class KernelReport:
    """Every convolution, matrix product, sum and pooling, and all operations by count."""

    runtime: str
    layers: tuple[LayerKernel, ...]
    operations: dict[str, int]

    def count(self, *ops: str) -> tuple[int, int]:
        """Return (in integers, in all) over the layers of the given ONNX types."""
        chosen = [layer for layer in self.layers if layer.op in ops]
        return sum(layer.precision == "int8" for layer in chosen), len(chosen)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for the manifest."""
        (layers, layers_all), (sums, sums_all) = self.count(*LAYERS), self.count(*SUMS)
        return {
            "runtime": self.runtime,
            "integer_layers": layers,
            "layers_total": layers_all,
            "integer_sums": sums,
            "sums_total": sums_all,
            "bits": dict(Counter(layer.bits for layer in self.layers if layer.op in LAYERS)),
            "operations": self.operations,
            "layers": [asdict(layer) for layer in self.layers],
        }


def read_kernels(model: bytes, reasons: dict[str, str] | None = None) -> KernelReport:
    """Return which kernels ONNX Runtime's CPU provider chooses for ``model``.

    ``reasons`` gives causes by layer name that the placement already knows. Raises ExportError
    if ONNX Runtime refuses the model.
    """
    written = onnx.load_from_string(model)
    optimised = _optimised(model)
    kernels = {node.name: node.op_type for node in optimised.graph.node}
    names = {node.name for node in written.graph.node}
    graph = QuantizedGraph(written)
    layers = [
        _layer(graph, node, _kernel_of(node.name, kernels, names), reasons or {})
        for node in written.graph.node
        if node.op_type in (*LAYERS, *SUMS, *POOLINGS)
    ]
    return KernelReport(
        runtime=f"onnxruntime {onnxruntime.__version__} CPU",
        layers=tuple(layers),
        operations=dict(Counter(node.op_type for node in optimised.graph.node)),
    )


def read_placement(
    model: bytes, runtime: str, reasons: dict[str, str] | None = None
) -> KernelReport:
    """Return what the quantizers in ``model`` ask of a runtime that is not on this machine.

    A layer counts as int8 if its data and weight come out of DequantizeLinear, a sum if at least
    one operand does, which is how TensorRT takes them. What the runtime then builds is its own
    decision, so the kernel is given as ``by placement``. ``reasons`` gives causes by layer name.
    """
    graph = QuantizedGraph(onnx.load_from_string(model))
    layers = []
    for node in graph.of(*LAYERS, *SUMS):
        found = [graph.dequantizer(name) is not None for name in node.input[:2]]
        integer = any(found) if node.op_type in SUMS else all(found)
        known = (reasons or {}).get(node.name)
        reason = "" if integer else known or "no quantizer on its inputs"
        layers.append(_described(graph, node, "by placement", integer, reason))
    return KernelReport(
        runtime=f"{runtime} (by placement, not built here)",
        layers=tuple(layers),
        operations=dict(Counter(node.op_type for node in graph.nodes)),
    )


def _optimised(model: bytes) -> onnx.ModelProto:
    """Return the graph after ONNX Runtime's precision-changing passes.

    Layout passes beyond ORT_ENABLE_EXTENDED rename nodes without changing their precision, so
    they are left out.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(path)
        options.log_severity_level = 3
        try:
            onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ExportError(
                f"ONNX Runtime refuses the exported model: {str(error).splitlines()[0][:300]}"
            ) from error
        return onnx.load(path)


def _layer(
    graph: QuantizedGraph, node: onnx.NodeProto, kernel: str, reasons: dict[str, str]
) -> LayerKernel:
    if kernel in INTEGER_KERNELS:
        return _described(graph, node, kernel, True, "")
    reason = reasons.get(node.name)
    if reason is None and not kernel:
        reason = "it is computed inside another kernel"
    reason = reason or _float_reason(graph.model.graph, node)
    return _described(graph, node, kernel or "fused away", False, reason)


def _described(
    graph: QuantizedGraph, node: onnx.NodeProto, kernel: str, integer: bool, reason: str
) -> LayerKernel:
    found = layer_format(graph, node, integer=integer)
    in_float = "float16" if found.bits == "fp16" else "float32"
    precision = "int8" if integer else in_float
    return LayerKernel(node.name, node.op_type, kernel, precision, **asdict(found), reason=reason)


def _kernel_of(name: str, kernels: dict[str, str], names: set[str]) -> str:
    """Find the optimised node that came from ``name``: fusions append to or prefix the name.

    ``names`` are those of all written nodes: what has one of these came from that node.
    """
    if name in kernels:
        return kernels[name]
    fused = [candidate for candidate in kernels if candidate not in names]
    for candidate in fused:
        if candidate.startswith((f"{name}_token", f"{name}/")) or candidate == f"fused {name}":
            return kernels[candidate]
    for candidate in fused:
        if re.fullmatch(rf"{re.escape(name)}_(\W.*|\d.*)?", candidate):
            return kernels[candidate]
    return ""


def _float_reason(graph: onnx.GraphProto, node: onnx.NodeProto) -> str:
    """Explain from the written graph why a layer could not become an integer kernel."""
    producers = {name: other for other in graph.node for name in other.output}
    stored = {initializer.name for initializer in graph.initializer}
    if node.op_type in ("ConvTranspose", "ReduceMean"):
        return f"ONNX Runtime has no integer kernel for {node.op_type}"
    for position, name in enumerate(node.input[:2]):
        producer = producers.get(name)
        if producer is None or producer.op_type != "DequantizeLinear":
            if node.op_type in LAYERS and position == 1 and name in stored:
                return "its weight is not quantized"
            what = "a constant" if name in stored else "the model's input"
            source = what if producer is None else f"{producer.op_type} ({producer.name})"
            return f"reads a tensor that is not quantized, from {source}"
    readers = [other for other in graph.node if set(node.output) & set(other.input)]
    followers = [r for r in readers if r.op_type not in ("QuantizeLinear", "Relu", "Clip")]
    if followers:
        return f"its output is read in float by {followers[0].op_type} ({followers[0].name})"
    if not readers:
        return "its output is the model's output"
    return "quantized, but this version of ONNX Runtime has no integer kernel for the pattern"
