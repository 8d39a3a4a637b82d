"""Putting masks on a program's weights, and holding zeros that are there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, fx

from edgekd.graph.tensors import constant, is_op
from edgekd.sparse.layers import WEIGHTED, selects
from edgekd.sparse.patterns import Masks

_CODES = re.compile(r"_codes(_\d+)?$")  # what conversion to integers puts behind a weight's name


def stored(module: fx.GraphModule, names: Iterable[str]) -> dict[str, Tensor]:
    """Return the tensors of these dotted names."""
    found: dict[str, Tensor] = {}
    for name in names:
        path, _, leaf = name.rpartition(".")
        found[name] = getattr(module.get_submodule(path), leaf)
    return found


@torch.no_grad()
def apply_masks(module: fx.GraphModule, masks: Mapping[str, Tensor]) -> None:
    """Set the weights that do not stay to zero, in place."""
    for name, weight in stored(module, masks).items():
        weight.masked_fill_(~masks[name].to(weight.device), 0.0)


def held_zeros(module: fx.GraphModule) -> Masks:
    """Return masks of the weights of all layers that hold zeros: False where a weight is zero.

    Layers that only select channels are left out: nothing changes them.
    """
    found: Masks = {}
    for node in module.graph.nodes:
        weight = constant(module, node.args[1]) if is_op(node, *WEIGHTED) else None
        if weight is not None and not selects(node) and not bool(weight.all()):
            found[str(node.args[1].target)] = weight.detach() != 0
    return found


def layer_weights(module: fx.GraphModule) -> list[tuple[str, Tensor]]:
    """Return name and tensor of every layer's stored weight, integers where it is dequantized.

    Integers are given under the name of the float weight that they came from. Layers that share a
    weight have integers of their own, since their steps differ.
    """
    found: list[tuple[str, Tensor]] = []
    for node in module.graph.nodes:
        read = node.args[1] if is_op(node, *WEIGHTED) else None
        if isinstance(read, fx.Node) and read.op == "call_function":
            read = read.args[0]  # dequantization
        weight = constant(module, read)
        if weight is not None:
            found.append((_CODES.sub("", str(read.target)), weight))  # type: ignore[union-attr]
    return found


def lost_zeros(module: fx.GraphModule, masks: Masks) -> list[str]:
    """Return the names of weights that are not zero in all places where the masks say so."""
    weights = [(name, weight) for name, weight in layer_weights(module) if name in masks]
    lost = [name for name, weight in weights if bool((weight != 0)[~masks[name]].any())]
    return [*lost, *(masks.keys() - {name for name, _ in weights})]
