"""One ONNX model with early exits as a chain of models: a segment for each exit, and the last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import onnx
from onnx import NodeProto, ValueInfoProto, helper, numpy_helper

from edgekd.errors import ExportError
from edgekd.export.batch_rows import check_rows, rows_per_sample, static_types
from edgekd.export.confidence import Confidence, append_confidence
from edgekd.export.links import Origins, find_link
from edgekd.spec import TensorSpec


@dataclass(frozen=True)
class ExitOutput:
    """An exit to keep: its output in the graph, and what its confidence is computed with."""

    name: str
    temperature: float = 1.0
    confidence: Confidence = "probability"


@dataclass(frozen=True)
class Segment:
    """One model of the chain.

    It receives ``link`` (None for the first) and those of the whole model's inputs that it still
    needs. It gives the logits ``exit``, their ``confidence`` (float32 ``(N,)``) and the link of the
    next segment, in this order; the last one, whose ``exit`` is None, gives the model's outputs.
    """

    model: bytes
    link: TensorSpec | None
    exit: str | None


@dataclass(frozen=True)
class _Cut:
    """A link as it is called inside the graph, and how it crosses: one row for each sample."""

    inside: str
    link: TensorSpec
    rows: int  # of the tensor inside, for one sample

    def gather(self) -> list[NodeProto]:
        """Return what brings the tensor inside into the link's shape."""
        shape = [-1, self.rows, *(int(size) for size in self.link.shape[2:] if size)]
        return self._reshape(self.inside, self.link.name, shape)

    def spread(self) -> list[NodeProto]:
        """Return what brings the link into the shape of the tensor inside."""
        shape = [-1, *(int(size) for size in self.link.shape[2:] if size)]
        return self._reshape(self.link.name, self.inside, shape)

    def _reshape(self, source: str, result: str, shape: list[int]) -> list[NodeProto]:
        if self.rows == 1:
            return []
        stored = numpy_helper.from_array(np.array(shape, np.int64))
        constant = helper.make_node("Constant", [], [f"{result}/shape"], f"{result}/shape")
        constant.attribute.append(helper.make_attribute("value", stored))
        return [
            constant,
            helper.make_node("Reshape", [source, constant.output[0]], [result], f"{result}/rows"),
        ]


def split(model: bytes, own: Sequence[str], exits: Sequence[ExitOutput]) -> list[Segment]:
    """Cut ``model`` behind each of ``exits``, which are in the order of their depth.

    ``own`` are the outputs of the model itself. Exits of the graph that are not asked for are
    dropped with their heads. Segment i ends with ``exits[i]``; one behind the other they give what
    the whole model gives, with no operation added at a cut but a Reshape where the tensor there
    holds several rows for each sample. A quantized tensor crosses as integers.

    Raises ExportError for unknown outputs, for a cut at which more than one tensor crosses, whose
    tensor has no known shape or does not have one row (or block of rows) for each sample, and
    for two exits at the same place.
    """
    proto = onnx.load_from_string(model)
    _check_names(proto, [*own, *(exit.name for exit in exits)])
    origins = Origins(proto)
    cuts = _cuts(origins, own, exits, model)
    segments = []
    for index, exit in enumerate([*exits, None]):
        received = cuts[index - 1] if index else None
        passed = cuts[index] if exit is not None else None
        names = list(own) if exit is None else [exit.name]
        part = _extract(origins, names, received, passed)
        if exit is not None and passed is not None:
            append_confidence(part, exit.name, exit.confidence, exit.temperature)
            part.graph.output.append(value_info(passed.link))
        onnx.checker.check_model(part, full_check=True)
        segments.append(
            Segment(
                bytes(part.SerializeToString(deterministic=True)),
                received.link if received else None,
                exit.name if exit else None,
            )
        )
    return segments


def without_exits(model: bytes, own: Sequence[str]) -> bytes:
    """Return ``model`` with the outputs ``own`` alone; what only exits need goes with them.

    Raises ExportError for an unknown output.
    """
    proto = onnx.load_from_string(model)
    _check_names(proto, own)
    part = _extract(Origins(proto), own, None, None, all_inputs=True)
    onnx.checker.check_model(part, full_check=True)
    return bytes(part.SerializeToString(deterministic=True))


def _check_names(proto: onnx.ModelProto, names: Sequence[str]) -> None:
    have = [value.name for value in proto.graph.output]
    unknown = [name for name in names if name not in have]
    if unknown:
        raise ExportError(f"the graph has no output {unknown[0]!r}, only {', '.join(have)}")
    if len(set(names)) != len(names):
        raise ExportError(f"an output is asked for twice: {', '.join(names)}")


def _cuts(
    origins: Origins, own: Sequence[str], exits: Sequence[ExitOutput], model: bytes
) -> list[_Cut]:
    names = [exit.name for exit in exits]
    inside = [find_link(origins, name, [*own, *names[i + 1 :]]) for i, name in enumerate(names)]
    for (first, second), (a, b) in zip(pairwise(inside), pairwise(names), strict=True):
        if first == second:
            raise ExportError(f"{a} and {b} leave at the same tensor ({first}); keep one of them")
        if origins.position[first] > origins.position[second]:
            raise ExportError(f"{b} leaves before {a}: give the exits in the order of their depth")
    types = static_types(origins.graph.model)
    cuts = [_cut(name, types, exit) for name, exit in zip(inside, names, strict=True)]
    spread = [cut.inside for cut in cuts if cut.rows > 1]
    check_rows(model, spread)
    return cuts


def _cut(inside: str, types: dict[str, list[TensorSpec]], exit: str) -> _Cut:
    rows, link = rows_per_sample(types.get(inside, []))
    if link is None:
        raise ExportError(
            f"{exit} cannot be cut off: the tensor there ({inside}) has no known shape with the "
            "batch first"
        )
    return _Cut(inside, link if rows == 1 else replace(link, name=f"{inside}/samples"), rows)


def _extract(
    origins: Origins,
    outputs: Sequence[str],
    received: _Cut | None,
    passed: _Cut | None,
    *,
    all_inputs: bool = False,
) -> onnx.ModelProto:
    """Return the part of the graph that makes ``outputs`` and the link ``passed``."""
    whole = origins.graph.model
    given = [received.inside] if received else []
    wanted = [*outputs, *([passed.inside] if passed else [])]
    places = sorted(origins.needed(wanted, given))
    nodes = [origins.graph.nodes[place] for place in places]
    nodes = [*(received.spread() if received else []), *nodes, *(passed.gather() if passed else [])]
    read = {name for node in nodes for name in node.input}
    made = {name for node in nodes for name in node.output}
    inputs = [v for v in whole.graph.input if all_inputs or v.name in read - set(given)]
    links = [value_info(received.link)] if received else []
    graph = helper.make_graph(
        nodes,
        whole.graph.name,
        [*links, *inputs],
        [value for name in outputs for value in whole.graph.output if value.name == name],
        [tensor for tensor in whole.graph.initializer if tensor.name in read],
        value_info=[v for v in whole.graph.value_info if v.name in made - set(outputs)],
    )
    if passed is not None and passed.rows == 1:  # it is about to become an output
        _forget(graph, passed.inside)
    part = onnx.ModelProto()
    part.CopyFrom(whole)
    part.graph.CopyFrom(graph)
    return part


def _forget(graph: onnx.GraphProto, name: str) -> None:
    kept = [value for value in graph.value_info if value.name != name]
    del graph.value_info[:]
    graph.value_info.extend(kept)


def value_info(tensor: TensorSpec) -> ValueInfoProto:
    """Return ``tensor`` as an input or output of a graph; a free first axis is ``batch``."""
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
    first = "batch" if tensor.shape[0] is None else tensor.shape[0]
    return helper.make_tensor_value_info(tensor.name, dtype, [first, *tensor.shape[1:]])
