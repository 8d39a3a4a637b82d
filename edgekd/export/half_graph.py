"""Rewriting an ONNX graph to FP16 when it is known which of its nodes stay in FP32."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, defs, helper, numpy_helper

from edgekd.errors import ExportError
from edgekd.export.quantized_graph import QuantizedGraph

FLOAT, HALF = int(TensorProto.FLOAT), int(TensorProto.FLOAT16)
OWN_TYPE = ("ConstantOfShape", "EyeLike", "RandomNormal", "RandomUniform")  # an attribute decides
COARSEST = 2.0**-9  # relative error of a scale, half of that of a full int8 range
SUFFIX = {FLOAT: "_fp32", HALF: "_fp16"}


def write_half(graph: QuantizedGraph, wide: set[str]) -> None:
    """Rewrite ``graph`` in place: every float in FP16 but inputs, outputs and the nodes ``wide``.

    The types of all tensors must be in the graph (shape inference), constants in initializers.
    """
    _Writer(graph, wide).write()


def float_constant(graph: QuantizedGraph, name: str) -> NDArray[np.float32] | None:
    """Return a stored FP32 tensor, None if ``name`` is something else."""
    tensor = graph.constants.get(name)
    if tensor is None or tensor.data_type != FLOAT:
        return None
    return np.asarray(numpy_helper.to_array(tensor), np.float32)


def rounded(value: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round to the nearest FP16 number, and to infinity beyond the largest."""
    with np.errstate(over="ignore"):
        return value.astype(np.float16).astype(np.float32)


def too_fine(graph: QuantizedGraph, quantizer: NodeProto) -> bool:
    """Tell whether a scale is so small that FP16 keeps few of its bits, or so large that none."""
    scale = float_constant(graph, quantizer.input[1])
    return scale is not None and bool(np.any(np.abs(rounded(scale) - scale) > COARSEST * scale))


class _Writer:
    """The graph as it is written: nodes so far, the type of every tensor, copies in the other."""

    def __init__(self, graph: QuantizedGraph, wide: set[str]) -> None:
        self.graph, self.wide, self.opset = graph, wide, graph.opset
        self.proto = graph.model.graph
        values = [*self.proto.input, *self.proto.output, *self.proto.value_info]
        self.floats = {v.name for v in values if v.type.tensor_type.elem_type == FLOAT}
        self.types = {v.name: FLOAT for v in self.proto.input if v.name in self.floats}
        self.taken = {v.name for v in values} | set(graph.constants)
        self.copies: dict[tuple[str, int], str] = {}
        self.nodes: list[NodeProto] = []
        self.stored: dict[tuple[str, int, bool], TensorProto] = {}

    def write(self) -> None:
        for original in self.graph.nodes:
            node = NodeProto()
            node.CopyFrom(original)
            match node.op_type:
                case "QuantizeLinear":
                    self._quantize(node)
                case "DequantizeLinear":
                    self._dequantize(node)
                case _:
                    self._compute(node)
        for value in self.proto.output:
            if self.types.get(value.name) == HALF:
                self._give_back(value.name)
        read = {name for node in self.nodes for name in node.input}
        new = {tensor.name: tensor for tensor in self.stored.values()}
        kept = [t for name, t in self.graph.constants.items() if name in read and name not in new]
        for field, written in (
            (self.proto.node, self.nodes),
            (self.proto.initializer, [*kept, *new.values()]),
            (self.proto.value_info, []),
        ):
            del field[:]
            field.extend(written)

    def _compute(self, node: NodeProto) -> None:
        wide = node.name in self.wide
        schema = defs.get_schema(node.op_type, self.opset, node.domain)
        for position, name in enumerate(node.input):
            if name in self.floats or float_constant(self.graph, name) is not None:
                half = not wide and _allows_half(schema.inputs, position)
                node.input[position] = self._read(name, HALF if half else FLOAT)
        wide = wide or node.op_type in OWN_TYPE
        for position, name in enumerate(node.output):
            if name in self.floats:
                half = not wide and _allows_half(schema.outputs, position)
                self.types[name] = HALF if half else FLOAT
        if node.op_type == "Cast" and self.types.get(node.output[0]) == HALF:
            next(a for a in node.attribute if a.name == "to").i = HALF
        self.nodes.append(node)

    def _quantize(self, node: NodeProto) -> None:
        """Quantize in the type of the tensor that is read, in FP32 if the scale needs that."""
        kind = FLOAT if node.name in self.wide else self.types.get(node.input[0], HALF)
        scale = self._scale(node, kind)
        node.input[:2] = [self._read(node.input[0], kind), scale]
        self.nodes.append(node)

    def _dequantize(self, node: NodeProto) -> None:
        """Dequantize into the type that the readers want, most of them if they differ."""
        name = node.output[0]
        readers = self.graph.readers.get(name, [])
        wide = all(reader.name in self.wide for reader in readers) or name in self.graph.outputs
        self.types[name] = FLOAT if wide or too_fine(self.graph, node) else HALF
        node.input[1] = self._scale(node, self.types[name])
        self.nodes.append(node)

    def _scale(self, node: NodeProto, kind: int) -> str:
        """Return the scale in a type: the numbers are those of FP16 in both, if it holds them."""
        value = float_constant(self.graph, node.input[1])
        if value is None:
            raise ExportError(f"the scale of {node.name} is not a stored FP32 number")
        if too_fine(self.graph, node):
            return self._store(node.input[1], value, FLOAT)
        return self._store(node.input[1], rounded(value), kind, scale=True)

    def _read(self, name: str, kind: int) -> str:
        """Return what to read for ``name`` in a type, adding what makes it if need be."""
        value = float_constant(self.graph, name)
        if value is not None:
            return self._store(name, value, kind)
        if self.types[name] == kind:
            return name
        if (name, kind) not in self.copies:
            self.copies[name, kind] = new = self._free(name + SUFFIX[kind])
            self.nodes.append(self._second(name, new, kind))
        return self.copies[name, kind]

    def _second(self, name: str, new: str, kind: int) -> NodeProto:
        """Return a node that gives ``name`` in the other type: a dequantization or a cast."""
        maker = self.graph.made_by(name, "DequantizeLinear")
        if maker is None or too_fine(self.graph, maker):
            return helper.make_node("Cast", [name], [new], f"{new}_cast", to=kind)
        node = NodeProto()
        node.CopyFrom(maker)
        node.name, node.output[0] = maker.name + SUFFIX[kind], new
        node.input[1] = self._scale(maker, kind)
        return node

    def _store(
        self, name: str, value: NDArray[np.float32], kind: int, *, scale: bool = False
    ) -> str:
        """Store a constant in a type; as FP32 it keeps its name, unless it is a rounded scale."""
        key = (name, kind, scale)
        if key not in self.stored:
            new = name if kind == FLOAT and not scale else self._free(name + SUFFIX[kind])
            with np.errstate(over="ignore"):
                array = value.astype(np.float16) if kind == HALF else value
            self.stored[key] = numpy_helper.from_array(array, new)
        return str(self.stored[key].name)

    def _give_back(self, name: str) -> None:
        """Give an output of the model back in FP32, under its own name."""
        inner = self._free(name + SUFFIX[HALF])
        for node in self.nodes:
            for names in (node.input, node.output):
                names[:] = [inner if found == name else found for found in names]
        self.nodes.append(helper.make_node("Cast", [inner], [name], f"{name}_cast", to=FLOAT))

    def _free(self, name: str) -> str:
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        return name


def _allows_half(parameters: Sequence[defs.OpSchema.FormalParameter], position: int) -> bool:
    """Tell whether ONNX takes FP16 for an operand or a result; the last may stand for many."""
    return "tensor(float16)" in parameters[min(position, len(parameters) - 1)].types
