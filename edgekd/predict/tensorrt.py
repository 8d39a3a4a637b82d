"""Which kernels TensorRT would build for an ONNX graph, by its documented rules.

NVIDIA, TensorRT developer guide, "Types of Fusions" and "Explicit Quantization": a quantizer on
the weights is folded into them, one in front of a layer makes the layer read integers; element-wise
operations behind a convolution or product, and chains of them, become part of one kernel. Which
tactics TensorRT then takes only its builder knows: this is an estimate of launches and traffic.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import onnx

from edgekd.errors import ExportError
from edgekd.predict.describe import describe
from edgekd.predict.graph import fix_inputs, infer_tensors
from edgekd.predict.kernel import WEIGHTED, Kernel
from edgekd.predict.tensor import VIEWS, Tensor

POINTWISE = frozenset(
    (
        "Relu",
        "Clip",
        "LeakyRelu",
        "PRelu",
        "Elu",
        "Selu",
        "Sigmoid",
        "Tanh",
        "HardSigmoid",
        "HardSwish",
        "Gelu",
        "Erf",
        "Softplus",
        "Mish",
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Pow",
        "Sqrt",
        "Exp",
        "Log",
        "Abs",
        "Neg",
        "Min",
        "Max",
        "Where",
        "Cast",
        "BatchNormalization",
    )
)
QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
NOTHING = (*VIEWS, "Dropout", "Constant", "Shape")  # no kernel of their own
FLOAT_BYTES, INTEGER_BYTES = 2, 1  # TensorRT runs float layers in FP16


def read_tensorrt(
    model: bytes | Path, *, batch: int = 1, shapes: Mapping[str, tuple[int, ...]] | None = None
) -> list[Kernel]:
    """Return the kernels in the order of the graph.

    Raises ExportError when the file cannot be read, or an axis besides the batch is open.
    """
    try:
        graph = onnx.load(model) if isinstance(model, Path) else onnx.load_from_string(model)
    except Exception as error:  # protobuf's errors are not exported
        raise ExportError(
            f"{model if isinstance(model, Path) else 'model'} is no ONNX file: {error}"
        ) from error
    fix_inputs(graph, batch, shapes or {})
    return _Fuser(graph, infer_tensors(graph)).kernels()


class _Fuser:
    def __init__(self, model: onnx.ModelProto, tensors: Mapping[str, Tensor]):
        self.nodes = list(model.graph.node)
        self.tensors = tensors
        self.makers = {name: node for node in self.nodes for name in node.output}
        self.readers = Counter(name for node in self.nodes for name in node.input)
        self.readers.update(value.name for value in model.graph.output)
        self.stored = {tensor.name for tensor in model.graph.initializer}
        self.home: dict[str, int] = {}  # tensor -> the kernel that it could be fused into

    def kernels(self) -> list[Kernel]:
        """Return one kernel for each group of fused operations."""
        found: list[Kernel] = []
        for node in self.nodes:
            if node.op_type in NOTHING or self._is_constant(node):
                self._pass_on(node)
            elif node.op_type in QUANTIZERS:
                self._quantizer(node, found)
            elif node.op_type in POINTWISE and (index := self._joins(node)) is not None:
                found[index] = self._joined(found[index], node)
                self._make(node, index)
            else:
                found.append(self._kernel(node))
                joinable = found[-1].kind in WEIGHTED or node.op_type in POINTWISE
                self._make(node, len(found) - 1 if joinable else None)
        return found

    def _is_constant(self, node: onnx.NodeProto) -> bool:
        """Tell whether all that ``node`` reads is stored, so that the builder computes it."""
        constant = all(not name or name in self.stored for name in node.input)
        if constant:
            self.stored.update(node.output)
        return constant

    def _pass_on(self, node: onnx.NodeProto) -> None:
        if node.input and node.input[0] in self.home:
            self._make(node, self.home[node.input[0]])

    def _make(self, node: onnx.NodeProto, index: int | None) -> None:
        if index is not None:
            self.home.update((name, index) for name in node.output)

    def _quantizer(self, node: onnx.NodeProto, found: list[Kernel]) -> None:
        """A quantizer behind a kernel is part of it, and its result has one byte a number."""
        name = node.input[0]
        if node.op_type == "QuantizeLinear" and name in self.home:
            index = self.home[name]
            size = self.tensors[name].size
            if self.readers[name] == 1:
                written = size * INTEGER_BYTES
                found[index] = replace(found[index], written=written)
        elif node.op_type == "QuantizeLinear":
            found.append(self._kernel(node))

    def _joins(self, node: onnx.NodeProto) -> int | None:
        """Return the kernel whose only reader ``node`` is, the last one if there are several."""
        own = [n for n in node.input if n in self.home and self.readers[n] == 1]
        return max((self.home[name] for name in own), default=None)

    def _joined(self, kernel: Kernel, node: onnx.NodeProto) -> Kernel:
        """Add what ``node`` reads besides the kernel's own result."""
        others = [n for n in node.input if n and n not in self.stored][1:]
        more = sum(self._bytes(name) for name in others)
        return replace(kernel, read=kernel.read + more, written=self._bytes(node.output[0]))

    def _kernel(self, node: onnx.NodeProto) -> Kernel:
        kernel = describe(node, self.tensors)
        integer = kernel.kind in WEIGHTED and all(
            self._dequantized(name) for name in node.input[:2]
        )
        data = [name for name in node.input if name]
        return replace(
            kernel,
            arithmetic="int8" if integer else "float16",
            read=sum(self._bytes(name) for name in data if name not in self.stored),
            weights=sum(self._bytes(name) for name in data if name in self.stored),
            written=sum(self._bytes(name) for name in node.output if name in self.tensors),
        )

    def _dequantized(self, name: str) -> bool:
        maker = self.makers.get(name)
        return maker is not None and maker.op_type == "DequantizeLinear"

    def _bytes(self, name: str) -> int:
        tensor = self.tensors[name]
        one = (
            INTEGER_BYTES
            if self._dequantized(name) or tensor.dtype in ("int8", "uint8")
            else (
                FLOAT_BYTES if tensor.dtype.startswith(("float", "bfloat")) else tensor.item_bytes
            )
        )
        return int(tensor.size * one)
