"""Rules for operations that only move elements around."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from edgekd.prune.combine import Operand, combine
from edgekd.prune.labels import Array, varying
from edgekd.prune.scope import LARGEST, TRANSPOSES, Scope, UnfollowedError, arguments, transposition

aten = torch.ops.aten


def reshape(scope: Scope, node: fx.Node) -> Array:
    """Any change of shape that keeps the elements in order."""
    source = node.all_input_nodes[0]
    array, shape = scope.array(source), scope.shape(node)
    if array.size == 1:
        return array.reshape([1] * len(shape))
    return np.broadcast_to(array, scope.shape(source)).reshape(shape)


def transpose(scope: Scope, node: fx.Node) -> Array:
    """Axes change places."""
    array = scope.array(node.all_input_nodes[0])
    return array.transpose(transposition(node, array.ndim))


def expand(scope: Scope, node: fx.Node) -> Array:
    """Copies of an axis of length 1; the labels are the same along it as it is."""
    array, ndim = scope.array(node.all_input_nodes[0]), len(scope.shape(node))
    return array.reshape([1] * (ndim - array.ndim) + list(array.shape))


def concatenate(scope: Scope, node: fx.Node) -> Array:
    """Tensors side by side."""
    given = arguments(node)
    sources = [n for n in given["tensors"] if scope.shape(n) != (0,)]
    axis = given["dim"] % len(scope.shape(sources[0]))
    return _side_by_side(scope, [(scope.array(n), scope.shape(n)) for n in sources], axis)


def stack(scope: Scope, node: fx.Node) -> Array:
    """Tensors side by side along a new axis."""
    given = arguments(node)
    axis = given["dim"] % len(scope.shape(node))
    parts = []
    for source in given["tensors"]:
        shape = scope.shape(source)
        array = np.expand_dims(scope.array(source), axis)
        parts.append((array, (*shape[:axis], 1, *shape[axis:])))
    return _side_by_side(scope, parts, axis)


def _side_by_side(scope: Scope, parts: Sequence[Operand], axis: int) -> Array:
    # Parts that hold units along another axis have to lose the same ones.
    across = [
        (array, (*shape[:axis], 1, *shape[axis + 1 :]))
        for array, shape in parts
        if array.shape[axis] == 1
    ]
    if across:
        combine(scope.labels, across, eager=scope.eager)
    arrays = [scope.labels.compress(array) for array, _ in parts]
    full = []
    for array, (_, shape) in zip(arrays, parts, strict=True):
        sizes = [max(a.shape[x] for a in arrays) for x in range(len(shape))]
        sizes[axis] = shape[axis]
        full.append(np.broadcast_to(array, sizes))
    return np.concatenate(full, axis)


def pad(scope: Scope, node: fx.Node) -> Array:
    """Zeros around; new channels are units that nothing stored makes."""
    given, source = arguments(node), node.all_input_nodes[0]
    array = scope.array(source)
    for axis, (before, after) in paddings(given["pad"], array.ndim).items():
        if array.shape[axis] == 1:
            continue
        if given.get("mode", "constant") != "constant" or min(before, after) < 0:
            raise UnfollowedError("it pads with more than constants, or cuts")
        places = scope.fresh(node, f"pad {axis}", before + after)
        shape = [1] * array.ndim
        shape[axis] = before + after
        zeros = np.broadcast_to(
            places.reshape(shape),
            [*array.shape[:axis], before + after, *array.shape[axis + 1 :]],
        )
        ends = np.split(zeros, [before], axis)
        array = np.concatenate([ends[0], array, ends[1]], axis)
    return array


def paddings(given: Sequence[int], ndim: int) -> dict[int, tuple[int, int]]:
    """Return the padding of every padded axis; torch names the last axis first."""
    pairs = zip(given[::2], given[1::2], strict=True)
    return {ndim - 1 - i: pair for i, pair in enumerate(pairs) if pair != (0, 0)}


def repeat(scope: Scope, node: fx.Node) -> Array:
    """Copies of the whole tensor."""
    array, shape = scope.array(node.all_input_nodes[0]), scope.shape(node)
    source = scope.shape(node.all_input_nodes[0])
    array = array.reshape([1] * (len(shape) - array.ndim) + list(array.shape))
    source = (1,) * (len(shape) - len(source)) + source
    counts = [
        n // m if array.shape[x] > 1 else 1
        for x, (n, m) in enumerate(zip(shape, source, strict=True))
    ]
    return np.tile(array, counts)


def repeat_interleave(scope: Scope, node: fx.Node) -> Array:
    """Copies of every element, next to it."""
    array, axis = scope.array(node.all_input_nodes[0]), arguments(node)["dim"]
    if axis is None:
        raise UnfollowedError("it flattens its input")
    if array.shape[axis] == 1:
        return array
    return array.repeat(arguments(node)["repeats"], axis)


def roll(scope: Scope, node: fx.Node) -> Array:
    """Elements turn around an axis that holds no units."""
    array, dims = scope.array(node.all_input_nodes[0]), arguments(node)["dims"]
    if set(varying(array)) & {axis % array.ndim for axis in dims} or not dims:
        raise UnfollowedError("it moves units around")
    return array


def pixel_shuffle(scope: Scope, node: fx.Node) -> Array:
    """The channels of one output channel's pixels go together."""
    factor = arguments(node)["upscale_factor"] ** 2
    array = scope.array(node.all_input_nodes[0])
    if array.size == 1:
        return array
    if varying(array) != [array.ndim - 3]:
        raise UnfollowedError("it moves units around")
    grouped = array.reshape(-1, factor)
    scope.labels.couple(grouped, [1])
    return grouped[:, 0].reshape(
        [-1 if axis == array.ndim - 3 else 1 for axis in range(array.ndim)]
    )


def made(scope: Scope, node: fx.Node) -> Array:
    """Zeros and the like, which can have any size; along the batch they are all the same."""
    shape = tuple(n if isinstance(n, int) else 1 for n in node.meta["val"].shape)
    count = int(np.prod(shape))
    if count > LARGEST:
        raise UnfollowedError("it is very large")
    return scope.fresh(node, "made", count).reshape(shape)


MADE = (
    aten.full.default,
    aten.new_full.default,
    aten.new_ones.default,
    aten.new_zeros.default,
    aten.ones.default,
    aten.zeros.default,
)
SHAPES: dict[object, Callable[[Scope, fx.Node], Any]] = {
    **dict.fromkeys(
        [
            aten._unsafe_view.default,
            aten.flatten.using_ints,
            aten.reshape.default,
            aten.squeeze.default,
            aten.squeeze.dim,
            aten.squeeze.dims,
            aten.unflatten.int,
            aten.unsqueeze.default,
            aten.view.default,
        ],
        reshape,
    ),
    **dict.fromkeys(MADE, made),
    **dict.fromkeys(TRANSPOSES, transpose),
    aten.cat.default: concatenate,
    aten.expand.default: expand,
    aten.constant_pad_nd.default: pad,
    aten.pad.default: pad,
    aten.pixel_shuffle.default: pixel_shuffle,
    aten.repeat.default: repeat,
    aten.repeat_interleave.self_int: repeat_interleave,
    aten.roll.default: roll,
    aten.stack.default: stack,
}
