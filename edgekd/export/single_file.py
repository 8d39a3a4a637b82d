"""A cascade as one ONNX model, for consumers without our runtime: every exit is an ``If``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from edgekd.errors import ExportError
from edgekd.export.confidence import OUTPUT as CONFIDENCE
from edgekd.export.segments import Segment, value_info
from edgekd.spec import ModelSpec

THRESHOLDS = "thresholds"
EXIT = "exit"


def single_file(
    segments: Sequence[Segment], spec: ModelSpec, thresholds: Sequence[float | None]
) -> bytes:
    """Return the chain ``segments`` of a model with the signature ``spec`` as one ONNX model.

    Its inputs are those of ``spec`` and ``thresholds``, float32 ``(exits,)``, whose default is
    ``thresholds`` (None: infinity, so that nothing leaves there). Its outputs are that of ``spec``
    and ``exit``, int64 ``(N,)``: the index of the exit that a sample took, or the number of exits
    for the end. What is behind an exit runs, for the whole batch, only when a sample does not leave
    there; samples that have left keep their exit's answer.

    Raises ExportError for a model of several outputs, for more or fewer thresholds than exits, and
    for an input or output that is called like one of the two additions.
    """
    names = [tensor.name for tensor in (*spec.inputs, *spec.outputs)]
    taken = {THRESHOLDS, EXIT} & set(names)
    if taken:
        raise ExportError(f"the model already has an input or output {taken.pop()!r}: rename it")
    if len(spec.outputs) != 1:
        raise ExportError("only a model of one output can be one file with exits")
    if len(thresholds) != len(segments) - 1:
        raise ExportError(
            f"{len(segments) - 1} exits need as many thresholds, not {len(thresholds)}"
        )
    protos = [onnx.load_from_string(segment.model) for segment in segments]
    levels = [
        _Level(i, proto.graph, segment, spec.outputs[0].name)
        for i, (proto, segment) in enumerate(zip(protos, segments, strict=True))
    ]
    body = _body(levels, None)
    _rename(body, spec.outputs[0].name)
    default = np.array([np.inf if t is None else t for t in thresholds], np.float32)
    whole = onnx.ModelProto()
    whole.CopyFrom(protos[0])
    whole.graph.CopyFrom(
        helper.make_graph(
            body.nodes,
            "cascade",
            [*map(value_info, spec.inputs), _value(THRESHOLDS, TensorProto.FLOAT, [len(default)])],
            [value_info(spec.outputs[0]), _value(EXIT, TensorProto.INT64, ["batch"])],
            [*body.stored, numpy_helper.from_array(default, THRESHOLDS)],
        )
    )
    onnx.checker.check_model(whole, full_check=True)
    return bytes(whole.SerializeToString(deterministic=True))


@dataclass
class _Body:
    """Operations and constants, and the names of the answer and the exit that they give."""

    nodes: list[NodeProto]
    stored: list[TensorProto]
    answer: str
    exit: str


class _Level:
    """One segment as a part of the whole: all names but those of model inputs get a prefix."""

    def __init__(self, index: int, graph: GraphProto, segment: Segment, own: str) -> None:
        self.index, self.graph = index, graph
        self.prefix = f"segment_{index}/"
        self.received = segment.link.name if segment.link else None
        self.answer = self.prefix + (segment.exit or own)
        self._kept = {value.name for value in graph.input} - {self.received}

    def nodes(self, link: str | None) -> list[NodeProto]:
        """Return the operations; ``link`` is what the received tensor is called outside."""
        found = []
        for node in self.graph.node:
            copy = NodeProto()
            copy.CopyFrom(node)
            copy.name = self.prefix + node.name
            for names in (copy.input, copy.output):
                for i, name in enumerate(names):
                    names[i] = str(link) if name == self.received else self.name(name)
            found.append(copy)
        return found

    def stored(self) -> list[TensorProto]:
        """Return the constants."""
        found = []
        for tensor in self.graph.initializer:
            copy = TensorProto()
            copy.CopyFrom(tensor)
            copy.name = self.name(tensor.name)
            found.append(copy)
        return found

    def name(self, inside: str) -> str:
        """Return what a value of the segment is called in the whole."""
        return inside if inside in self._kept or not inside else self.prefix + inside


def _body(levels: Sequence[_Level], link: str | None, done: str | None = None) -> _Body:
    """Return what computes the answer from ``levels[0]`` on.

    ``done`` is the test (bool, one for each sample) of the level before, for the batch's length.
    """
    level, *further = levels
    nodes, stored = level.nodes(link), level.stored()
    build = _Builder(level.prefix, nodes, stored)
    index = build.store("index", np.array(level.index, np.int64))
    if not further:
        exit = build.add("Where", "exit", str(done), index, index)
        return _Body(nodes, stored, level.answer, exit)
    place = build.store("place", np.array(level.index, np.int64))
    threshold = build.add("Gather", "threshold", THRESHOLDS, place)
    leaves = build.add("Greater", "leaves", level.name(CONFIDENCE), threshold)
    stays = build.add("Cast", "stays", build.add("Not", "not", leaves), to=TensorProto.INT32)
    count = build.add("ReduceSum", "count", stays, keepdims=0)
    onward = build.add("Cast", "onward", count, to=TensorProto.BOOL)
    inner = _body(further, level.name(further[0].received or ""), leaves)
    later, later_exit = f"{level.prefix}later", f"{level.prefix}later_exit"
    nodes.append(
        helper.make_node(
            "If",
            [onward],
            [later, later_exit],
            f"{level.prefix}if",
            then_branch=_branch("further", inner),
            else_branch=_branch("all_done", _all_done(level, leaves)),
        )
    )
    column = build.add("Unsqueeze", "column", leaves, build.store("axis", np.array([1], np.int64)))
    answer = build.add("Where", "answer", column, level.answer, later)
    exit = build.add("Where", "exit", leaves, index, later_exit)
    return _Body(nodes, stored, answer, exit)


def _all_done(level: _Level, leaves: str) -> _Body:
    """Return a branch whose values nothing takes, since every sample has left."""
    answer, exit = f"{level.prefix}same", f"{level.prefix}no_exit"
    nodes = [
        helper.make_node("Identity", [level.answer], [answer], answer),
        helper.make_node("Cast", [leaves], [exit], exit, to=TensorProto.INT64),
    ]
    return _Body(nodes, [], answer, exit)


def _branch(name: str, body: _Body) -> GraphProto:
    outputs = [_value(body.answer, TensorProto.FLOAT), _value(body.exit, TensorProto.INT64)]
    return helper.make_graph(body.nodes, name, [], outputs, body.stored)


class _Builder:
    """Appends operations and constants to a level."""

    def __init__(self, prefix: str, nodes: list[NodeProto], stored: list[TensorProto]) -> None:
        self._prefix, self._nodes, self._stored = f"{prefix}cascade/", nodes, stored

    def add(self, op: str, name: str, *inputs: str, **attributes: int) -> str:
        output = self._prefix + name
        self._nodes.append(helper.make_node(op, inputs, [output], output, **attributes))
        return output

    def store(self, name: str, value: NDArray[np.generic]) -> str:
        self._stored.append(numpy_helper.from_array(value, self._prefix + name))
        return self._prefix + name


def _rename(body: _Body, own: str) -> None:
    """Give answer and exit the names of outputs; no operation reads them."""
    names = {body.answer: own, body.exit: EXIT}
    for node in body.nodes:
        for i, name in enumerate(node.output):
            node.output[i] = names.get(name, name)


def _value(name: str, dtype: int, shape: Sequence[int | str] | None = None) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)
