"""LayerNormalization in simpler operations, for runtimes that do not know the operator."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from edgekd.errors import ExportError


def decompose_layer_norms(model: onnx.ModelProto) -> None:
    """Replace every LayerNormalization of an opset-18 graph in place; shapes are those before.

    y = (x - mean) / sqrt(mean((x - mean)^2) + epsilon) * scale + bias, over the last axes (Ba,
    Kiros and Hinton, arXiv 1607.06450, section 3). The parts are called NAME/PART.

    Raises ExportError where the mean or the deviation itself is read, or the rank is not known.
    """
    graph = model.graph
    values = [*graph.input, *graph.output, *graph.value_info]
    ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in values}
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.op_type != "LayerNormalization":
            nodes.append(node)
            continue
        rank = ranks.get(node.input[0], 0)
        if len(node.output) > 1 or not rank:
            raise ExportError(f"LayerNormalization ({node.name}) cannot be taken apart")
        axis, epsilon = _attribute(node, "axis", -1), _attribute(node, "epsilon", 1e-5)
        axes = np.arange(int(axis) % rank, rank, dtype=np.int64)
        constants = {"axes": axes, "two": np.float32(2), "epsilon": np.float32(epsilon)}
        for name, value in constants.items():
            stored = numpy_helper.from_array(np.asarray(value), f"{node.name}/{name}")
            graph.initializer.append(stored)
        nodes += _parts(node)
    del graph.node[:]
    graph.node.extend(nodes)


def has_decomposed_layer_norm(model: bytes) -> bool:
    """Tell whether ``decompose_layer_norms`` has rewritten something in this model."""
    graph = onnx.load_from_string(model).graph
    return any(node.op_type == "Sqrt" and node.name.endswith("/deviation") for node in graph.node)


def _attribute(node: NodeProto, name: str, default: float) -> float:
    found = next((a for a in node.attribute if a.name == name), None)
    return default if found is None else float(helper.get_attribute_value(found))


def _parts(node: NodeProto) -> list[NodeProto]:
    x, scale, *bias = node.input
    at = node.name
    steps = [
        ("ReduceMean", [x, f"{at}/axes"], "mean"),
        ("Sub", [x, f"{at}/mean"], "centred"),
        ("Pow", [f"{at}/centred", f"{at}/two"], "square"),
        ("ReduceMean", [f"{at}/square", f"{at}/axes"], "variance"),
        ("Add", [f"{at}/variance", f"{at}/epsilon"], "shifted"),
        ("Sqrt", [f"{at}/shifted"], "deviation"),
        ("Div", [f"{at}/centred", f"{at}/deviation"], "normal"),
        ("Mul", [f"{at}/normal", scale], "scaled"),
        *([("Add", [f"{at}/scaled", bias[0]], "result")] if bias and bias[0] else []),
    ]
    nodes = [
        helper.make_node(op, given, [f"{at}/{part}"], f"{at}/{part}") for op, given, part in steps
    ]
    nodes[-1].output[0] = node.output[0]
    return nodes
