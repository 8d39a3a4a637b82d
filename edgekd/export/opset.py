"""Writing a graph of ONNX opset 18, the oldest that torch writes, in an older one.

torch asks onnx's version converter to do this. It cannot convert reductions and splits, and says
so only in a log, leaving a model of another opset than the one asked for.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import defs, helper, numpy_helper

from edgekd.errors import ExportError

OLDEST_WRITTEN = 18


def lower_opset(model: onnx.ModelProto, opset: int) -> None:
    """Rewrite ``model`` from opset 18 to ``opset`` in place.

    Raises ExportError for an operation that the older opset does not have in that form.
    """
    for node in list(model.graph.node):
        if node.domain not in ("", "ai.onnx") or _unchanged(node.op_type, opset):
            continue
        if not (opset >= 13 and _exists(node.op_type, opset) and _lower(model.graph, node, opset)):
            raise ExportError(f"{node.op_type} ({node.name}) cannot be written in opset {opset}")
    _drop_unread(model.graph)
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = opset


# Opsets 14 to 16 gave these more types, none of which torch writes where 32-bit numbers do.
# fmt: off
_MORE_TYPES = frozenset((
    "Add", "CumSum", "Div", "GreaterOrEqual", "Identity", "LeakyRelu", "LessOrEqual", "Mul",
    "PRelu", "Pow", "Relu", "Sub", "Where",
))
# fmt: on
# Attributes that came after opset 13, with the value that says what older opsets do.
_ADDED = {
    "BatchNormalization": {"training_mode": 0},
    "GRU": {"layout": 0},
    "LSTM": {"layout": 0},
    "RNN": {"layout": 0},
}


def _lower(graph: onnx.GraphProto, node: onnx.NodeProto, opset: int) -> bool:
    """Rewrite one node; return whether that is possible."""
    if node.op_type.startswith("Reduce"):
        return _reduction(graph, node)
    if node.op_type in _ADDED:
        return _without_added(node, _ADDED[node.op_type])
    match node.op_type:
        case "Split":
            possible = _split(graph, node)
        case "Resize":
            possible = _resize(node)
        case "Pad":
            possible = _pad(node)
        case "ScatterElements" | "ScatterND":
            possible = _scatter(node, opset)
        case "Shape":
            possible = _shape(graph, node)
        case "Reshape":
            possible = _reshape(graph, node)
        case _:
            possible = node.op_type in _MORE_TYPES
    return possible


def _exists(op: str, opset: int) -> bool:
    return bool(defs.has(op, max_inclusive_version=opset))


def _unchanged(op: str, opset: int) -> bool:
    if not _exists(op, opset):
        return False
    then = defs.get_schema(op, max_inclusive_version=opset)
    now = defs.get_schema(op, max_inclusive_version=OLDEST_WRITTEN)
    return bool(then.since_version == now.since_version)


def _reduction(graph: onnx.GraphProto, node: onnx.NodeProto) -> bool:
    """Turn the axes of a reduction from an input into an attribute."""
    if len(node.input) > 1:
        axes = _constant(graph, node.input[1])
        if axes is None:
            return False
        del node.input[1:]
        node.attribute.append(helper.make_attribute("axes", axes))
    _drop_attributes(node, "noop_with_empty_axes")
    return True


def _split(graph: onnx.GraphProto, node: onnx.NodeProto) -> bool:
    """Drop the number of parts, which older opsets count from the outputs.

    Parts are equal there, so the last part must not be smaller.
    """
    types = [*graph.value_info, *graph.output]
    sizes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in types}
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
    parts = [sizes[name][axis] if sizes.get(name) else None for name in node.output]
    if len(node.input) < 2 and len(set(parts)) > 1:
        return False
    _drop_attributes(node, "num_outputs")
    return True


def _resize(node: onnx.NodeProto) -> bool:
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    policy = values.get("keep_aspect_ratio_policy", b"stretch")
    if values.get("antialias") or "axes" in values or policy != b"stretch":
        return False
    _drop_attributes(node, "antialias", "keep_aspect_ratio_policy")
    return True


def _pad(node: onnx.NodeProto) -> bool:
    return len(node.input) < 4


def _scatter(node: onnx.NodeProto, opset: int) -> bool:
    values = {a.name: a.s for a in node.attribute}
    if opset >= 16:
        return values.get("reduction", b"none") in (b"none", b"add", b"mul")
    if values.get("reduction", b"none") != b"none":
        return False
    _drop_attributes(node, "reduction")
    return True


def _shape(graph: onnx.GraphProto, node: onnx.NodeProto) -> bool:
    """Take a part of a shape with Slice, which newer opsets do in one."""
    bounds = {a.name: a.i for a in node.attribute}
    _drop_attributes(node, "start", "end")
    if not bounds:
        return True
    output, whole = node.output[0], f"{node.output[0]}_whole"
    names = [f"{output}_start", f"{output}_end"]
    values = (bounds.get("start", 0), bounds.get("end", np.iinfo(np.int64).max))
    for name, value in zip(names, values, strict=True):
        graph.initializer.append(numpy_helper.from_array(np.array([value], np.int64), name))
    node.output[0] = whole
    part = helper.make_node("Slice", [whole, *names], [output], name=f"{node.name or output}_part")
    graph.node.insert(list(graph.node).index(node) + 1, part)
    return True


def _reshape(graph: onnx.GraphProto, node: onnx.NodeProto) -> bool:
    """Drop the meaning of zeros, which older opsets do not ask for: no tensor here is empty."""
    if 0 in (_constant(graph, node.input[1]) or ()):
        return False
    _drop_attributes(node, "allowzero")
    return True


def _without_added(node: onnx.NodeProto, added: Mapping[str, int]) -> bool:
    if any(added.get(a.name, a.i) != a.i for a in node.attribute):
        return False
    _drop_attributes(node, *added)
    return True


def _drop_attributes(node: onnx.NodeProto, *names: str) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name not in names]
    del node.attribute[:]
    node.attribute.extend(kept)


def _constant(graph: onnx.GraphProto, name: str) -> list[int] | None:
    for tensor in graph.initializer:
        if tensor.name == name:
            return [int(value) for value in numpy_helper.to_array(tensor).reshape(-1)]
    for node in graph.node:
        if node.op_type == "Constant" and name in node.output:
            value = helper.get_attribute_value(node.attribute[0])
            array = numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value
            return [int(v) for v in array]
    return None


def _drop_unread(graph: onnx.GraphProto) -> None:
    read = {name for node in graph.node for name in node.input} | {v.name for v in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    nodes = [n for n in graph.node if n.op_type != "Constant" or n.output[0] in read]
    del graph.node[:]
    graph.node.extend(nodes)
