"""Rules for operations that take a part of a tensor."""

from __future__ import annotations

import operator
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import fx

from edgekd.graph.tensors import constant
from edgekd.prune.labels import Array, Lock
from edgekd.prune.scope import Scope, UnfollowedError, arguments

aten = torch.ops.aten
INDEX = Lock("it is used as an index")


def split(scope: Scope, node: fx.Node) -> list[Array]:
    """Parts along one axis, in order."""
    source = node.all_input_nodes[0]
    axis = arguments(node)["dim"] % len(scope.shape(source))
    array = scope.array(source)
    edges = np.cumsum([0, *(shape[axis] for shape in scope.value(node))])
    if array.shape[axis] == 1:
        return [array] * (len(edges) - 1)
    return [np.take(array, np.arange(a, b), axis) for a, b in pairwise(edges)]


def unbind(scope: Scope, node: fx.Node) -> list[Array]:
    """The parts of length 1 along one axis, without that axis."""
    source = node.all_input_nodes[0]
    axis = arguments(node)["dim"] % len(scope.shape(source))
    array = scope.array(source)
    places = range(scope.shape(source)[axis])
    return [_part(array, axis, i) for i in places]


def _part(array: Array, axis: int, place: int) -> Array:
    return array.take([place if array.shape[axis] > 1 else 0], axis).squeeze(axis)


def select(scope: Scope, node: fx.Node) -> Array:
    """One place along one axis."""
    given, source = arguments(node), node.all_input_nodes[0]
    axis, array = given["dim"] % len(scope.shape(source)), scope.array(source)
    index = scope.value(given["index"]) % scope.shape(source)[axis]
    return _part(array, axis, index)


def take_slice(scope: Scope, node: fx.Node) -> Array:
    """A range of places along one axis."""
    source = node.all_input_nodes[0]
    axis = arguments(node)["dim"] % len(scope.shape(source))
    array = scope.array(source)
    if array.shape[axis] == 1:
        return array
    return np.take(array, slice_places(scope, node), axis)


def slice_places(scope: Scope, node: fx.Node) -> list[int]:
    """Return which places of its input a slice takes."""
    given, shape = arguments(node), scope.shape(node.all_input_nodes[0])
    start, end, step = (scope.value(given[k]) for k in ("start", "end", "step"))
    return list(range(shape[given["dim"] % len(shape)])[slice(start, end, step)])


def get_item(scope: Scope, node: fx.Node) -> Array:
    """One of several outputs."""
    parts, index = scope.arrays[node.all_input_nodes[0].name], node.args[1]
    assert isinstance(parts, list) and isinstance(index, int)
    return parts[index]


def index_select(scope: Scope, node: fx.Node) -> Array:
    """Stored places along one axis."""
    source = node.all_input_nodes[0]
    axis, array = arguments(node)["dim"] % len(scope.shape(source)), scope.array(source)
    places = stored_places(scope, node)
    if array.shape[axis] == 1:
        return array
    if places is None:
        raise UnfollowedError("which units it takes is not stored")
    return np.take(array, places, axis)


def stored_places(scope: Scope, node: fx.Node) -> Array | None:
    """Return which places of its input an ``index_select`` takes, if they are constant."""
    index = arguments(node)["index"]
    stored = constant(scope.module, index)
    if stored is None:
        scope.labels.lock(scope.array(index), INDEX)
        return None
    name = scope.stored_name(index)
    assert name is not None
    scope.lock_stored(name, INDEX)
    return np.asarray(stored.cpu().numpy(), np.int64)


def look_up(scope: Scope, node: fx.Node) -> Array:
    """``table[index]`` along one axis, whose rows stay since any may be asked for."""
    given = arguments(node)
    asked = [(axis, index) for axis, index in enumerate(given["indices"]) if index is not None]
    if len(asked) != 1:
        raise UnfollowedError("it looks up along several axes")
    ((axis, index),) = asked
    scope.labels.lock(scope.array(index), INDEX)
    rows = scope.labels.couple(scope.array(given["self"]), [axis])
    shape = [*rows.shape[:axis], *[1] * len(scope.shape(index)), *rows.shape[axis + 1 :]]
    return rows.reshape(shape)


PARTS: dict[object, Callable[[Scope, fx.Node], Any]] = {
    **dict.fromkeys([aten.chunk.default, aten.split.Tensor, aten.split_with_sizes.default], split),
    aten.index.Tensor: look_up,
    aten.index_select.default: index_select,
    aten.select.int: select,
    aten.slice.Tensor: take_slice,
    aten.unbind.int: unbind,
    operator.getitem: get_item,
}
