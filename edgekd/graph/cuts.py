"""Where a program can be cut in two: places at which one tensor carries all that was computed."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, fx

from edgekd.graph.layers import is_grid_step, stored_weight
from edgekd.graph.tensors import constant, is_float_tensor, is_op

aten = torch.ops.aten

_NORMS = (
    aten.batch_norm.default,
    aten.layer_norm.default,
    aten.group_norm.default,
    aten.rms_norm.default,
)
_ACTIVATIONS = (
    aten.relu.default,
    aten.relu6.default,
    aten.hardtanh.default,
    aten.clamp.default,
    aten.gelu.default,
    aten.silu.default,
    aten.mish.default,
    aten.hardswish.default,
    aten.hardsigmoid.default,
    aten.leaky_relu.default,
    aten.prelu.default,
    aten.elu.default,
    aten.sigmoid.default,
    aten.tanh.default,
)


def computed(module: fx.GraphModule) -> list[fx.Node]:
    """Return what depends on the program's inputs, and these, in order; no output node."""
    found: dict[fx.Node, None] = {}
    for node in module.graph.nodes:
        depends = any(n in found for n in node.all_input_nodes)
        if node.op == "placeholder" or (depends and node.op != "output"):
            found[node] = None
    return list(found)


def single(module: fx.GraphModule, nodes: Iterable[fx.Node]) -> list[fx.Node]:
    """Return those of ``nodes`` behind which no earlier one of them is needed any more.

    ``nodes`` are in the program's order.
    """
    position = {node: i for i, node in enumerate(module.graph.nodes)}
    found, needed = [], -1  # the last position that reads a node from before
    for node in nodes:
        if needed <= position[node]:
            found.append(node)
        needed = max([needed, *(position[user] for user in node.users)])
    return found


def cuts(module: fx.GraphModule) -> list[fx.Node]:
    """Return every tensor that alone carries what was computed so far, in order.

    What is made of integer inputs without any weight (a mask, positions, a size) may be needed
    further on as well: it can be had again at any place.
    """
    carriers: dict[fx.Node, None] = {}
    for node in computed(module):
        before = node.all_input_nodes
        given = node.op == "placeholder" and is_float_tensor(node)
        weighted = any(_is_stored_float(module, n) for n in before)
        carries = given or weighted or any(n in carriers for n in before)
        if carries and node.users and not _is_number(node):
            carriers[node] = None
    found = single(module, carriers)
    return [node for node in found if node.op != "placeholder" and is_float_tensor(node)]


def block_ends(module: fx.GraphModule) -> list[fx.Node]:
    """Return the outputs of the program's blocks, in order, but not those of the program.

    A block is what lies between two cuts and has layers: a residual block, or a layer in a row of
    them. It ends behind the norm and the activation that directly follow its last layer.
    """
    nodes = list(module.graph.nodes)
    position = {node: i for i, node in enumerate(nodes)}
    outputs = set(module.graph.output_node().all_input_nodes)
    ends: list[fx.Node] = []
    for cut in cuts(module):
        start = position[ends[-1]] + 1 if ends else 0
        if any(
            stored_weight(module, node) is not None for node in nodes[start : position[cut] + 1]
        ):
            ends.append(cut)
        elif ends and is_finish(ends[-1], cut):
            ends[-1] = cut
    return [end for end in ends if end not in outputs]


def is_finish(end: fx.Node, node: fx.Node) -> bool:
    """Tell whether ``node`` is a norm or an activation of ``end``, or its value on a grid."""
    if is_grid_step(node) and is_grid_step(node.args[0]) and node.args[0] is not end:
        return is_finish(end, node.args[0])  # type: ignore[arg-type]  # dequantized again
    reads = [n for n in node.all_input_nodes if n.op != "get_attr"]
    return reads == [end] and (is_op(node, *_NORMS, *_ACTIVATIONS) or is_grid_step(node))


def _is_stored_float(module: fx.GraphModule, node: fx.Node) -> bool:
    tensor = constant(module, node)
    return tensor is not None and tensor.is_floating_point()


def _is_number(node: fx.Node) -> bool:
    """Tell whether export recorded a size or nothing at all for a node's output."""
    return "val" in node.meta and not isinstance(node.meta["val"], (Tensor, tuple, list))
