"""Cross-layer equalisation on a canonical program, in float, before calibration."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx

from edgekd.algorithms.equalize import (
    equalizing_factors,
    input_widths,
    output_widths,
    scale_inputs,
)
from edgekd.graph.canonical import is_selection
from edgekd.graph.tensors import constant, is_op, is_shared
from edgekd.quantize.operations import CONVOLUTIONS, LINEARS, POOLINGS, is_weighted

aten = torch.ops.aten

# Operations on each channel alone with f(s x) = s f(x) for s > 0. A clamp such as ReLU6 is not
# one of them: its ceiling would have to move along, channel by channel. Poolings keep channels
# apart only where these are axis 1, between convolutions.
BETWEEN_LINEARS = (aten.relu.default,)
BETWEEN_CONVOLUTIONS = (*BETWEEN_LINEARS, aten.max_pool2d.default, *POOLINGS)
SWEEPS = 20


@dataclass(frozen=True)
class Pair:
    """Two layers, the first read by the second alone."""

    first: Tensor
    bias: Tensor | None
    second: Tensor
    groups: int


@torch.no_grad()
def equalize(module: fx.GraphModule, sweeps: int = SWEEPS) -> int:
    """Equalise every pair of layers in place and return how many there are.

    Pairs overlap in chains (pointwise, depthwise, pointwise), so they are visited in graph order
    until no factor changes by more than a thousandth, at most ``sweeps`` times.
    """
    pairs = find_pairs(module)
    for _ in range(sweeps):
        changes = [_equalize_pair(pair) for pair in pairs]
        if max(changes, default=0.0) < 1e-3:
            break
    return len(pairs)


def find_pairs(module: fx.GraphModule) -> list[Pair]:
    """Return the pairs of layers between which a channel can be rescaled, in graph order."""
    layers = [node for node in module.graph.nodes if _rescalable(module, node)]
    pairs = []
    for second in layers:
        first = _layer_before(second)
        if first is None or first not in layers:
            continue
        bias = constant(module, first.args[2]) if len(first.args) > 2 else None
        pairs.append(Pair(_weight(module, first), bias, _weight(module, second), _groups(second)))
    return pairs


def _rescalable(module: fx.GraphModule, node: fx.Node) -> bool:
    """Tell whether the tensors of a layer may be changed: stored, its own, not a selection."""
    if not is_weighted(module, node) or (is_op(node, *CONVOLUTIONS) and is_selection(node)):
        return False
    stored = [n for n in node.args[1:3] if isinstance(n, fx.Node)]
    return all(constant(module, n) is not None and not is_shared(module, n) for n in stored)


def _layer_before(layer: fx.Node) -> fx.Node | None:
    """Go back over homogeneous operations to a layer of the same kind that nothing else reads."""
    convolution = is_op(layer, *CONVOLUTIONS)
    kinds, between = (
        (CONVOLUTIONS, BETWEEN_CONVOLUTIONS) if convolution else (LINEARS, BETWEEN_LINEARS)
    )
    node = layer.args[0]
    while isinstance(node, fx.Node) and len(node.users) == 1:
        if is_op(node, *kinds):
            return node
        if not is_op(node, *between):
            return None
        node = node.args[0]
    return None


def _weight(module: fx.GraphModule, layer: fx.Node) -> Tensor:
    weight = constant(module, layer.args[1])
    assert weight is not None
    return weight


def _groups(layer: fx.Node) -> int:
    return int(layer.args[6]) if len(layer.args) > 6 else 1  # type: ignore


def _equalize_pair(pair: Pair) -> float:
    """Rescale one pair in place; return the largest change as |log factor|."""
    widths = output_widths(pair.first), input_widths(pair.second, pair.groups)
    factors = equalizing_factors(*widths)
    pair.first.div_(factors.reshape(-1, *[1] * (pair.first.ndim - 1)))
    if pair.bias is not None:
        pair.bias.div_(factors)
    pair.second.copy_(scale_inputs(pair.second, factors, pair.groups))
    return float(factors.log().abs().max())
