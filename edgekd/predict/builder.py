"""ONNX graphs of random weights, written step by step, in float or with quantizers as exported.

What they compute is of no interest, only how long it takes, and that must not depend on the
numbers: weights keep the size of activations, so that no number becomes denormal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET, IR = 20, 9  # opset 20 has Gelu

# What ONNX Runtime's own quantizer puts between quantizers too, where edgekd's leaves float.
EVERYTHING = ("MatMul", "Add", "Mul", "Softmax", "Reshape", "Transpose", "Split", "Squeeze")


@dataclass(frozen=True)
class Value:
    """A tensor of the graph."""

    name: str
    shape: tuple[int, ...]


class Builder:
    """Adds operations to a graph.

    With ``integer`` every operation that ONNX Runtime has an integer kernel for writes through
    QuantizeLinear and DequantizeLinear, and weights are stored as int8. With ``everything`` also
    products of two computed tensors, sums and rows that are better left in float.
    """

    def __init__(self, seed: int, *, integer: bool = False, everything: bool = False):
        self.integer, self.everything = integer, integer and everything
        self.macs = 0
        self._rng = np.random.default_rng(seed)
        self._nodes: list[Any] = []
        self._stored: list[Any] = []
        self._inputs: list[Any] = []
        self._pool: dict[int, NDArray[np.float32]] = {}

    def input(self, *shape: int, dtype: int = TensorProto.FLOAT) -> Value:
        """Add an input of the model."""
        value = Value(f"x{len(self._inputs)}", shape)
        self._inputs.append(helper.make_tensor_value_info(value.name, dtype, list(shape)))
        return self.quantized(value) if dtype == TensorProto.FLOAT else value

    def finish(self, *outputs: Value) -> bytes:
        """Return the model that computes ``outputs``."""
        infos = [
            helper.make_tensor_value_info(value.name, TensorProto.FLOAT, list(value.shape))
            for value in outputs
        ]
        graph = helper.make_graph(self._nodes, "network", self._inputs, infos, self._stored)
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR)
        return bytes(model.SerializeToString())

    def op(
        self,
        kind: str,
        reads: Sequence[Value | None],
        shape: Sequence[int],
        *,
        quantize: bool = False,
        **attributes: Any,
    ) -> Value:
        """Add one operation with a result of ``shape``."""
        return self.split(kind, reads, [shape], quantize=quantize, **attributes)[0]

    def split(
        self,
        kind: str,
        reads: Sequence[Value | None],
        shapes: Sequence[Sequence[int]],
        *,
        quantize: bool = False,
        **attributes: Any,
    ) -> list[Value]:
        """Add one operation with several results."""
        number = len(self._nodes)
        results = [Value(f"t{number}_{i}", tuple(shape)) for i, shape in enumerate(shapes)]
        names = [value.name if value else "" for value in reads]
        node = helper.make_node(
            kind, names, [r.name for r in results], name=f"n{number}", **attributes
        )
        self._nodes.append(node)
        quantize = quantize or (self.everything and kind in EVERYTHING)
        return [self.quantized(r) for r in results] if quantize else results

    def stored(self, *shape: int, scale: float = 1.0) -> Value:
        """Store random numbers."""
        return self.constant(self._random(shape) * np.float32(scale))

    def positive(self, *shape: int) -> Value:
        """Store random numbers from 0.5 on."""
        return self.constant(np.abs(self._random(shape)) + np.float32(0.5))

    def constant(self, array: NDArray[Any] | np.generic | list[int]) -> Value:
        """Store an array; a list is one of int64."""
        values = np.asarray(array, np.int64) if isinstance(array, list) else array
        name = f"w{len(self._stored)}"
        self._stored.append(numpy_helper.from_array(values, name))
        return Value(name, values.shape)

    def quantized(self, value: Value) -> Value:
        """Pass ``value`` through a quantizer to uint8, where the network is one of integers."""
        if not self.integer:
            return value
        grid = [self.constant(np.float32(0.03)), self.constant(np.uint8(0))]
        quantized = self.op("QuantizeLinear", [value, *grid], value.shape)
        return self.op("DequantizeLinear", [quantized, *grid], value.shape)

    def weight(self, *shape: int, fan_in: int, axis: int = 0) -> Value:
        """Store a weight; int8 for each channel of ``axis`` in a network of integers."""
        if not self.integer:
            return self.stored(*shape, scale=1 / math.sqrt(fan_in))
        values = (self._random(shape) * 40).clip(-127, 127).astype(np.int8)
        scales = np.full(shape[axis], 0.025 / math.sqrt(fan_in), np.float32)
        grid = [self.constant(scales), self.constant(np.zeros(shape[axis], np.int8))]
        return self.op("DequantizeLinear", [self.constant(values), *grid], shape, axis=axis)

    def bias(self, size: int, fan_in: int) -> Value:
        """Store a bias; int32 in a network of integers, in the product of the scales."""
        if not self.integer:
            return self.stored(size, scale=0.1)
        values = (self._random((size,)) * 100).astype(np.int32)
        scales = np.full(size, 0.03 * 0.025 / math.sqrt(fan_in), np.float32)
        grid = [self.constant(scales), self.constant(np.zeros(size, np.int32))]
        return self.op("DequantizeLinear", [self.constant(values), *grid], (size,), axis=0)

    def _random(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return random numbers, the same for every tensor of a size: drawing them takes time."""
        size = math.prod(shape)
        if size not in self._pool:
            self._pool[size] = self._rng.standard_normal(size, np.float32)
        return self._pool[size].reshape(shape)
