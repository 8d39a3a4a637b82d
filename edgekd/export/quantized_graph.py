"""An ONNX graph with quantize and dequantize steps, as questions about its links and constants."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

# Quantizers commute with what only moves values, so the search for one looks through these.
MOVES = ("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice", "MaxPool", "Identity")


class QuantizedGraph:
    """An ONNX graph with its links and constants, and the newest opset allowed."""

    def __init__(self, model: onnx.ModelProto, newest_opset: int) -> None:
        self.model, self.newest_opset = model, newest_opset
        self.nodes = list(model.graph.node)
        self.outputs = {value.name for value in model.graph.output}
        self.producer = {name: node for node in self.nodes for name in node.output}

    @cached_property
    def readers(self) -> dict[str, list[NodeProto]]:
        """Return who reads a tensor, once for every time that it is read."""
        found: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                found.setdefault(name, []).append(node)
        return found

    @cached_property
    def constants(self) -> dict[str, TensorProto]:
        """Return what is stored: initializers and the values of Constant nodes."""
        stored = {tensor.name: tensor for tensor in self.model.graph.initializer}
        for node in self.of("Constant"):
            value = helper.get_attribute_value(node.attribute[0])
            tensor = value if isinstance(value, TensorProto) else None
            stored[node.output[0]] = tensor or numpy_helper.from_array(np.asarray(value))
        return stored

    @cached_property
    def types(self) -> dict[str, int]:
        """Return the ONNX element type of every tensor of which the file says it."""
        graph = self.model.graph
        values = [*graph.input, *graph.value_info, *graph.output]
        found = {value.name: int(value.type.tensor_type.elem_type) for value in values}
        return found | {name: int(tensor.data_type) for name, tensor in self.constants.items()}

    def of(self, *types: str) -> list[NodeProto]:
        """Return the nodes of these types."""
        return [node for node in self.nodes if node.op_type in types]

    def value(self, name: str) -> NDArray[np.generic] | None:
        """Return a constant as an array, None if ``name`` is computed."""
        tensor = self.constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def made_by(self, name: str, *types: str) -> NodeProto | None:
        """Return the node that computes ``name`` if it is of one of ``types``."""
        node = self.producer.get(name)
        return node if node is not None and node.op_type in types else None

    def read_once(self, name: str) -> bool:
        """Tell whether exactly one operand is ``name`` and it is no output of the model."""
        return len(self.readers.get(name, [])) == 1 and name not in self.outputs

    def dequantizer(self, name: str) -> NodeProto | None:
        """Return the DequantizeLinear that ``name`` comes out of, moved at most."""
        while (move := self.made_by(name, *MOVES)) is not None:
            name = move.input[0]
        return self.made_by(name, "DequantizeLinear")

    def behind(self, name: str) -> NodeProto | None:
        """Return what computes the tensor that is quantized, dequantized and called ``name``."""
        reader = self.made_by(name, "DequantizeLinear")
        writer = None if reader is None else self.made_by(reader.input[0], "QuantizeLinear")
        return None if writer is None else self.producer.get(writer.input[0])

    def source(self, quantizer: NodeProto) -> str:
        """Return the name of what a quantizer or a pair of quantizers stands on."""
        name = str(quantizer.input[0])
        writer = self.made_by(name, "QuantizeLinear")
        return name if writer is None else str(writer.input[0])

    def integer_layer(self, name: str) -> NodeProto | None:
        """Return the convolution with quantized data that only one operation reads as ``name``."""
        conv = self.made_by(name, "Conv", "ConvTranspose")
        quantized = conv is not None and self.dequantizer(conv.input[0]) is not None
        return conv if quantized and self.read_once(name) else None
