"""Residual blocks that can go as a whole, since their shortcut is the identity."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor, fx

from edgekd.graph.program import clone, refresh
from edgekd.graph.tensors import clean, constant, is_op, layer_name, shape_of
from edgekd.prune.rules_layers import PRODUCING

aten = torch.ops.aten


@dataclass(frozen=True)
class ResidualBlock:
    """A branch that is added to its own input.

    ``name`` is the module that holds its ``layers``; ``add`` and ``shortcut`` are the nodes of the
    sum and of the input, ``nodes`` the computed nodes that nothing but the branch needs.
    """

    name: str
    add: str
    shortcut: str
    nodes: tuple[str, ...]
    layers: tuple[str, ...]


def residual_blocks(module: fx.GraphModule) -> list[ResidualBlock]:
    """Return the branches of a program that can be left out, in order.

    He et al., CVPR 2016, arXiv 1512.03385: ``x + branch(x)``. A branch without layers is none, nor
    is one whose shortcut is a layer or pads channels.
    """
    found: list[ResidualBlock] = []
    taken: dict[str, int] = {}
    for node in module.graph.nodes:
        if not is_op(node, aten.add.Tensor) or node.kwargs:
            continue
        for shortcut, branch in (node.args, node.args[::-1]):
            if not isinstance(shortcut, fx.Node) or not isinstance(branch, fx.Node):
                continue
            if not _same_shape(shortcut, node) or not _depends(branch, shortcut):
                continue
            inside = _needed_only_by(branch, node)
            layers = [layer_name(n) for n in inside if _is_layer(module, n)]
            if layers:
                name = _common_path(layers) or node.name
                taken[name] = taken.get(name, 0) + 1
                name = name if taken[name] == 1 else f"{name}:{taken[name]}"
                names = tuple(n.name for n in inside)
                found.append(ResidualBlock(name, node.name, shortcut.name, names, tuple(layers)))
    return found


def bypass(
    module: fx.GraphModule, blocks: Iterable[ResidualBlock], example: tuple[Tensor, ...]
) -> fx.GraphModule:
    """Return a copy of ``module`` in which the shortcut alone takes the place of each block."""
    result = clone(module)
    nodes = {node.name: node for node in result.graph.nodes}
    replaced: dict[str, str] = {}
    for block in blocks:
        shortcut = block.shortcut
        while shortcut in replaced:
            shortcut = replaced[shortcut]
        nodes[block.add].replace_all_uses_with(nodes[shortcut])
        replaced[block.add] = shortcut
    clean(result)
    return refresh(result, example)


def _is_layer(module: fx.GraphModule, node: fx.Node) -> bool:
    return is_op(node, *PRODUCING) and constant(module, node.args[1]) is not None


def _same_shape(left: fx.Node, right: fx.Node) -> bool:
    return str(shape_of(left)) == str(shape_of(right)) and shape_of(left) is not None


def _depends(node: fx.Node, source: fx.Node) -> bool:
    """Tell whether ``node`` is computed from ``source``, not being it."""
    seen, frontier = {node}, [node]
    while frontier:
        for n in frontier.pop().all_input_nodes:
            if n is source:
                return True
            if n not in seen and source < n:
                seen.add(n)
                frontier.append(n)
    return False


def _needed_only_by(branch: fx.Node, add: fx.Node) -> list[fx.Node]:
    """Return what is left without readers once ``add`` does not read ``branch``, in order."""
    found: set[fx.Node] = set()
    for node in reversed(add.graph.nodes):
        readers = {add} if node is branch else found
        if node.op == "call_function" and node.users and set(node.users) <= readers:
            found.add(node)
    return [node for node in add.graph.nodes if node in found]


def _common_path(layers: list[str]) -> str:
    parts = [layer.split(".") for layer in layers]
    same = takewhile(lambda level: len(set(level)) == 1, zip(*parts, strict=False))
    return ".".join(level[0] for level in same)
