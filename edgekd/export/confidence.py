"""How sure an exit is of its answer, computed inside the graph of its segment."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import NodeProto, helper, numpy_helper

from edgekd.errors import ExportError

Confidence: TypeAlias = Literal["probability", "margin", "entropy"]
OUTPUT = "confidence"
_AXES_AS_INPUT = 18  # the opset from which on ReduceMax reads its axes as a tensor


def append_confidence(
    model: onnx.ModelProto, logits: str, kind: Confidence, temperature: float
) -> None:
    """Add the output ``confidence``, float32 ``(N,)`` in [0, 1], of ``(N, classes)`` logits.

    With p = softmax(logits / temperature), ``probability`` is the largest p, ``margin`` the largest
    minus the second largest, ``entropy`` is 1 - H(p) / ln(classes). (The three are compared in
    Geifman and El-Yaniv, NeurIPS 2017, and Teerapittayanon et al., ICPR 2016; temperature: Guo et
    al., ICML 2017.)

    Changes ``model`` in place. Raises ExportError for a temperature that is not positive, and for
    logits that are not ``(N, classes)`` with at least 2 classes.
    """
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ExportError(f"the temperature of {logits} must be positive, not {temperature}")
    classes = _classes(model.graph, logits)
    _free(model.graph, OUTPUT)
    steps = _Steps(model, logits)
    scaled = logits
    if temperature != 1.0:
        scaled = steps.add("Mul", "scaled", logits, steps.number("inverse", 1.0 / temperature))
    match kind:
        case "probability":
            steps.largest(steps.add("Softmax", "softmax", scaled, axis=-1))
        case "margin":
            softmax = steps.add("Softmax", "softmax", scaled, axis=-1)
            two = steps.top_two(softmax)
            signed = steps.add("Mul", "signed", two, steps.number("signs", [1.0, -1.0]))
            steps.sum(signed, OUTPUT)
        case "entropy":
            # LogSoftmax stays finite where a probability is 0, so that 0 * log(0) is 0.
            logs = steps.add("LogSoftmax", "logs", scaled, axis=-1)
            terms = steps.add("Mul", "terms", steps.add("Exp", "exp", logs), logs)
            share = steps.number("share", 1.0 / math.log(classes))
            certain = steps.add("Mul", "relative", steps.sum(terms, "negentropy"), share)
            raw = steps.add("Add", "raw", certain, steps.number("one", 1.0))
            steps.clip(raw)
    model.graph.output.append(
        helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, ["batch"])
    )


def _classes(graph: onnx.GraphProto, logits: str) -> int:
    for value in graph.output:
        if value.name == logits:
            dims = value.type.tensor_type.shape.dim
            floats = value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
            if floats and len(dims) == 2 and dims[1].dim_value > 1:
                return int(dims[1].dim_value)
    raise ExportError(f"{logits} must be float32 (N, classes) with 2 classes or more")


class _Steps:
    """Appends operations on one exit's logits to a graph."""

    def __init__(self, model: onnx.ModelProto, logits: str) -> None:
        self._graph = model.graph
        self._prefix = f"{logits}/{OUTPUT}"
        self._opset = next(e.version for e in model.opset_import if e.domain in ("", "ai.onnx"))

    def add(self, op: str, name: str, *inputs: str, **attributes: int) -> str:
        """Append an operation with one output and return that output's name."""
        output = name if name == OUTPUT else f"{self._prefix}/{name}"
        self._append(helper.make_node(op, inputs, [output], f"{self._prefix}/{name}", **attributes))
        return output

    def number(self, name: str, value: ArrayLike) -> str:
        """Store a float32 constant and return its name."""
        return self._store(name, np.asarray(value, np.float32))

    def sum(self, values: str, name: str) -> str:
        """Sum over the last axis, which goes."""
        axes = self._store("last", np.array([-1], np.int64))
        return self.add("ReduceSum", name, values, axes, keepdims=0)

    def largest(self, values: str) -> None:
        """Give the maximum over the last axis, which goes, as the output."""
        if self._opset >= _AXES_AS_INPUT:
            axes = self._store("last", np.array([-1], np.int64))
            self.add("ReduceMax", OUTPUT, values, axes, keepdims=0)
        else:
            node = helper.make_node(
                "ReduceMax", [values], [OUTPUT], f"{self._prefix}/max", axes=[-1], keepdims=0
            )
            self._append(node)

    def top_two(self, values: str) -> str:
        """Return the two largest along the last axis, the larger first: ``(N, 2)``."""
        two, places = (f"{self._prefix}/{name}" for name in ("two", "places"))
        count = self._store("count", np.array([2], np.int64))
        self._append(helper.make_node("TopK", [values, count], [two, places], two, axis=-1))
        return two

    def clip(self, values: str) -> None:
        """Cut what rounding left outside of [0, 1] and give it as the output."""
        self.add("Clip", OUTPUT, values, self.number("zero", 0.0), self.number("one", 1.0))

    def _append(self, node: NodeProto) -> None:
        self._graph.node.append(node)

    def _store(self, name: str, value: NDArray[np.generic]) -> str:
        full = f"{self._prefix}/{name}"
        if all(tensor.name != full for tensor in self._graph.initializer):
            self._graph.initializer.append(numpy_helper.from_array(value, full))
        return full


def _free(graph: onnx.GraphProto, name: str) -> None:
    """Move an inner value of that name out of the way."""
    lists = [names for node in graph.node for names in (node.input, node.output)]
    for names in lists:
        for i, found in enumerate(names):
            if found == name:
                names[i] = f"{name}_inner"
    for value in [*graph.initializer, *graph.value_info]:
        if value.name == name:
            value.name = f"{name}_inner"
