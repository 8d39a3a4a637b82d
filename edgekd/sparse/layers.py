"""Which layers of a program get zeros, and why the others do not."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx

from edgekd.graph.canonical import is_selection
from edgekd.graph.layers import layer_macs
from edgekd.graph.tensors import constant, is_op, layer_name
from edgekd.sparse.patterns import Pattern, misfit

aten = torch.ops.aten
CONVOLUTIONS = (aten.conv1d.default, aten.conv2d.default)
WEIGHTED = (*CONVOLUTIONS, aten.linear.default)


@dataclass(frozen=True)
class SparseLayer:
    """A layer that gets zeros; ``weight`` is the target of its get_attr node.

    ``outputs`` and ``inputs`` count channels, ``macs`` multiply-accumulates for one sample, all
    uses of the layer together.
    """

    name: str
    weight: str
    outputs: int
    inputs: int
    macs: int


@dataclass(frozen=True)
class Choice:
    """The layers that get zeros, in graph order, and the reason for every other one by name.

    ``macs`` counts the multiply-accumulates of all layers with stored weights.
    """

    layers: tuple[SparseLayer, ...]
    dense: dict[str, str]
    macs: int

    @property
    def weights(self) -> tuple[str, ...]:
        """The names of the weights that get zeros."""
        return tuple(layer.weight for layer in self.layers)


def choose_layers(module: fx.GraphModule, pattern: Pattern, *, keep_ends: bool) -> Choice:
    """Return which layers of ``module`` can have the pattern.

    The program's shapes must be recorded. With ``keep_ends`` the first and the last layer stay
    dense: they are a small part of the work and lose most.
    """
    calls: dict[str, list[fx.Node]] = {}
    for node in module.graph.nodes:
        if is_op(node, *WEIGHTED) and constant(module, node.args[1]) is not None:
            calls.setdefault(layer_name(node), []).append(node)
    own = [name for name, nodes in calls.items() if not selects(nodes[0])]
    ends = {own[0], own[-1]} if own and keep_ends else set()
    layers, dense = [], {}
    for name, nodes in calls.items():
        reason = "the first and the last layer stay dense (keep_ends)" if name in ends else None
        reason = _unfit(module, nodes, pattern) or reason
        if reason:
            dense[name] = reason
        else:
            layers.append(_layer(module, name, nodes))
    macs = sum(layer_macs(module, node) for nodes in calls.values() for node in nodes)
    return Choice(tuple(layers), dense, macs)


def selects(node: fx.Node) -> bool:
    """Tell whether a layer is a convolution that only selects channels."""
    return is_op(node, *CONVOLUTIONS) and is_selection(node)


def weight_of(module: fx.GraphModule, layer: fx.Node) -> Tensor:
    """Return the stored weight of a layer."""
    weight = constant(module, layer.args[1])
    assert weight is not None
    return weight


def groups_of(layer: fx.Node) -> int:
    """Return the number of groups of a convolution, 1 for a linear layer."""
    grouped = is_op(layer, *CONVOLUTIONS) and len(layer.args) > 6
    return int(layer.args[6]) if grouped else 1  # type: ignore[arg-type]


def _unfit(module: fx.GraphModule, nodes: list[fx.Node], pattern: Pattern) -> str | None:
    weight = weight_of(module, nodes[0])
    if selects(nodes[0]):
        return "it only selects channels"
    if is_op(nodes[0], *CONVOLUTIONS) and weight.shape[1] == 1:
        return "depthwise: each output has one input, and no runtime gains from zeros in it"
    if _read_elsewhere(module, weight):
        return "its weight is read by something else than layers, such as an embedding"
    return misfit(pattern, weight)


def _read_elsewhere(module: fx.GraphModule, weight: Tensor) -> bool:
    reads = [n for n in module.graph.nodes if n.op == "get_attr" and constant(module, n) is weight]
    users = [(read, user) for read in reads for user in read.users]
    return any(not is_op(user, *WEIGHTED) or user.args[1] is not read for read, user in users)


def _layer(module: fx.GraphModule, name: str, nodes: list[fx.Node]) -> SparseLayer:
    read = nodes[0].args[1]
    assert isinstance(read, fx.Node)
    outputs, inputs = weight_of(module, nodes[0]).shape[:2]
    macs = sum(layer_macs(module, node) for node in nodes)
    return SparseLayer(name, str(read.target), outputs, inputs * groups_of(nodes[0]), macs)
