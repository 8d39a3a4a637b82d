"""Adapting the numbers in a program's calls to tensors that lost units."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from edgekd.graph.tensors import add_tensor, free_name
from edgekd.prune.labels import Array
from edgekd.prune.rules_layers import CONVOLUTIONS
from edgekd.prune.rules_parts import slice_places, stored_places
from edgekd.prune.rules_shapes import MADE, paddings
from edgekd.prune.scope import Scope, arguments, set_argument

aten = torch.ops.aten
Kept = tuple[Array | None, ...]  # for every axis the places that stay; None for all


class Resizer:
    """Knows what every tensor keeps when the classes ``removed`` go.

    ``module``, whose nodes are adapted, is a copy of the scope's, with nodes of the same names.
    """

    def __init__(self, module: fx.GraphModule, scope: Scope, removed: Array) -> None:
        self.module = module
        self.scope = scope
        self.removed = removed

    def kept(self, node: fx.Node) -> Kept:
        """Return what a computed tensor keeps along every axis."""
        return self.kept_of(self.scope.array(node), self.scope.shape(node))

    def kept_of(self, array: Array, shape: Sequence[int]) -> Kept:
        """Return what a tensor with these labels keeps; they change along one axis at most."""
        gone = np.isin(self.scope.labels.classes(array), self.removed)
        return tuple(
            None if array.shape[x] == 1 or not gone.any() else np.flatnonzero(~_line(gone, x))
            for x in range(len(shape))
        )

    def resize(self, node: fx.Node) -> None:
        """Adapt the call of one node."""
        adapt = ADAPT.get(node.target)
        if adapt is not None:
            adapt(self, node)


def _line(mask: Any, axis: int) -> Any:
    others = tuple(x for x in range(mask.ndim) if x != axis)
    return mask.all(others)


def _convolution(at: Resizer, node: fx.Node) -> None:
    given = arguments(node)
    channels = given["weight"], given["input"]
    weight, source = (at.scope.shape(n) for n in channels)
    kept = at.kept(channels[1])[len(source) - (len(weight) - 1)]
    total = source[len(source) - (len(weight) - 1)]
    if kept is not None and given["groups"] == total > 1:
        set_argument(node, "groups", len(kept))


def _group_norm(at: Resizer, node: fx.Node) -> None:
    given = arguments(node)
    kept, channels = at.kept(given["input"])[1], at.scope.shape(given["input"])[1]
    if kept is not None:
        set_argument(node, "num_groups", len(kept) * given["num_groups"] // channels)


def _sizes(name: str) -> Callable[[Resizer, fx.Node], None]:
    def adapt(at: Resizer, node: fx.Node) -> None:
        sizes, kept = list(arguments(node)[name]), at.kept(node)
        changed = [axis for axis, places in enumerate(kept) if places is not None]
        for axis in changed:
            places = kept[axis]
            assert places is not None
            # A computed size holds units only where an axis joins them with the batch.
            computed = isinstance(sizes[axis], fx.Node)
            if computed or sizes[axis] != -1:
                sizes[axis] = -1 if computed else len(places)
        if changed:
            set_argument(node, name, sizes)

    return adapt


def _unflatten(at: Resizer, node: fx.Node) -> None:
    given, kept = arguments(node), at.kept(node)
    sizes = list(given["sizes"])
    first = given["dim"] % len(at.scope.shape(given["self"]))
    for i, size in enumerate(sizes):
        places = kept[first + i]
        if places is not None and size != -1:
            sizes[i] = len(places)
    set_argument(node, "sizes", sizes)


def _squeeze(at: Resizer, node: fx.Node) -> None:
    """Name the axes that were 1 long: another one could become so."""
    shape = at.scope.shape(node.all_input_nodes[0])
    asked = arguments(node).get("dim", range(len(shape)))
    asked = [asked] if isinstance(asked, int) else asked
    axes = [axis for axis in sorted({a % len(shape) for a in asked}) if shape[axis] == 1]
    node.target, node.args, node.kwargs = aten.squeeze.dims, (node.args[0], axes), {}


def _split(at: Resizer, node: fx.Node) -> None:
    source = node.all_input_nodes[0]
    axis = arguments(node)["dim"] % len(at.scope.shape(source))
    kept = at.kept(source)[axis]
    if kept is None:
        return
    edges = np.cumsum([0, *(shape[axis] for shape in at.scope.value(node))])
    sizes = [int(((kept >= a) & (kept < b)).sum()) for a, b in pairwise(edges)]
    node.target, node.args, node.kwargs = aten.split_with_sizes.default, (source, sizes, axis), {}


def _select(at: Resizer, node: fx.Node) -> None:
    given, source = arguments(node), node.all_input_nodes[0]
    shape = at.scope.shape(source)
    kept = at.kept(source)[given["dim"] % len(shape)]
    if kept is not None:
        index = at.scope.value(given["index"]) % shape[given["dim"] % len(shape)]
        set_argument(node, "index", int(np.searchsorted(kept, index)))


def _slice(at: Resizer, node: fx.Node) -> None:
    source = node.all_input_nodes[0]
    axis = arguments(node)["dim"] % len(at.scope.shape(source))
    kept = at.kept(source)[axis]
    if kept is None:
        return
    places = np.flatnonzero(np.isin(kept, slice_places(at.scope, node)))
    if (np.diff(places) == 1).all():
        node.args, node.kwargs = (source, axis, int(places[0]), int(places[-1]) + 1), {}
        return
    _select_places(at, node, axis, places)


def _index_select(at: Resizer, node: fx.Node) -> None:
    source = node.all_input_nodes[0]
    axis = arguments(node)["dim"] % len(at.scope.shape(source))
    kept, taken = at.kept(source)[axis], at.kept(node)[axis]
    places = stored_places(at.scope, node) if kept is not None else None
    if kept is not None and places is not None:
        places = places if taken is None else places[taken]
        _select_places(at, node, axis, np.searchsorted(kept, places))


def _select_places(at: Resizer, node: fx.Node, axis: int, places: Array) -> None:
    name = free_name(at.module, f"{node.name}_places.index")
    read = add_tensor(at.module, name, torch.from_numpy(places), before=node)
    source = node.all_input_nodes[0]
    node.target, node.args, node.kwargs = aten.index_select.default, (source, axis, read), {}


def _pad(at: Resizer, node: fx.Node) -> None:
    given, source = arguments(node), node.all_input_nodes[0]
    shape, kept = at.scope.shape(source), at.kept(node)
    changed = list(given["pad"])
    for axis, (before, _) in paddings(given["pad"], len(shape)).items():
        places = kept[axis]
        if places is not None:
            first = 2 * (len(shape) - 1 - axis)
            changed[first] = int((places < before).sum())
            changed[first + 1] = int((places >= before + shape[axis]).sum())
    set_argument(node, "pad", changed)


ADAPT: dict[object, Callable[[Resizer, fx.Node], None]] = {
    **dict.fromkeys(CONVOLUTIONS, _convolution),
    **dict.fromkeys(
        [aten.view.default, aten._unsafe_view.default, aten.expand.default, *MADE], _sizes("size")
    ),
    **dict.fromkeys([aten.chunk.default, aten.split.Tensor, aten.split_with_sizes.default], _split),
    **dict.fromkeys([aten.constant_pad_nd.default, aten.pad.default], _pad),
    aten.group_norm.default: _group_norm,
    aten.index_select.default: _index_select,
    aten.reshape.default: _sizes("shape"),
    aten.select.int: _select,
    aten.slice.Tensor: _slice,
    **dict.fromkeys([aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims], _squeeze),
    aten.unflatten.int: _unflatten,
}


def cut(tensor: Tensor, kept: Kept) -> Tensor:
    """Return the part of a tensor that stays."""
    for axis, places in enumerate(kept):
        if places is not None:
            tensor = tensor.index_select(axis, torch.from_numpy(places).to(tensor.device))
    return tensor
