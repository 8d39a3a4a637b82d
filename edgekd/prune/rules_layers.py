"""Rules for layers with weights: what they produce and what they consume."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from edgekd.graph.layers import CONVOLUTIONS as PLAIN
from edgekd.graph.layers import TRANSPOSED
from edgekd.prune.combine import combine, reduce
from edgekd.prune.labels import Array, Lock, varying
from edgekd.prune.scope import Layer, Scope, UnfollowedError, arguments

aten = torch.ops.aten
INDEX = Lock("it is used as an index")
NORMALIZED = Lock("a layer norm normalises over all of it")
ONE_NORM_GROUP = Lock("a group norm normalises over all of it")


def convolution(scope: Scope, node: fx.Node) -> Array:
    """Output channels are produced, input channels consumed, groups kept equal."""
    given = arguments(node)
    name, _ = _stored(scope, given["weight"])
    weight = scope.shape(given["weight"])
    source = scope.array(given["input"])
    axis = source.ndim - (len(weight) - 1)
    inputs = _along(source, axis, scope.shape(given["input"])[axis])
    if given.get("transposed") or "transpose" in str(node.target):
        outputs = _transposed(scope, node, name, inputs, given["groups"])
    else:
        outputs = _convolved(scope, node, name, inputs, given["groups"])
    if given["bias"] is not None:
        scope.labels.tie(scope.axis(_stored(scope, given["bias"])[0], 0, "produced"), outputs)
    return _spread(outputs, axis, source.ndim)


def _convolved(scope: Scope, node: fx.Node, name: str, inputs: Array, groups: int) -> Array:
    outputs = _outputs(scope, node, name, 0)
    if groups == len(inputs) > 1:  # depthwise: every output belongs to one input
        scope.labels.tie(outputs.reshape(groups, -1), inputs[:, None])
        return outputs
    consumed = scope.axis(name, 1, "consumed")
    scope.labels.tie(consumed, inputs.reshape(groups, -1))
    if groups > 1:  # the same place in every group
        scope.labels.couple(outputs.reshape(groups, -1), [0])
    return outputs


def _transposed(scope: Scope, node: fx.Node, name: str, inputs: Array, groups: int) -> Array:
    if groups == 1:
        scope.labels.tie(scope.axis(name, 0, "consumed"), inputs)
        return _outputs(scope, node, name, 1)
    outputs = _outputs(scope, node, name, 0)
    if groups != len(inputs) or len(scope.axis(name, 1, "produced")) != 1:
        raise UnfollowedError("it is a transposed convolution with groups")
    scope.labels.tie(outputs, inputs)
    return outputs


def linear(scope: Scope, node: fx.Node) -> Array:
    """The rows of a stored matrix are produced, its columns consumed."""
    given = arguments(node)
    name, order = _stored(scope, given["weight"])
    return _matrix(scope, node, given["input"], (name, order[1], order[0]), given["bias"])


def addmm(scope: Scope, node: fx.Node) -> Array:
    """``bias + x @ w`` with a stored ``w``, which is given as (inputs, outputs)."""
    given = arguments(node)
    name, order = _stored(scope, given["mat2"])
    if given["alpha"] != 1 or given["beta"] != 1 or scope.weight(given["self"]) is None:
        raise UnfollowedError("it scales its operands or adds a computed tensor")
    return _matrix(scope, node, given["mat1"], (name, order[0], order[1]), given["self"])


def product_with_weight(scope: Scope, node: fx.Node, x: fx.Node, weight: fx.Node) -> Array:
    """``x @ w`` with a stored ``w`` of (inputs, outputs)."""
    name, order = _stored(scope, weight)
    return _matrix(scope, node, x, (name, order[0], order[1]), None)


def _matrix(
    scope: Scope, node: fx.Node, x: fx.Node, weight: tuple[str, int, int], bias: fx.Node | None
) -> Array:
    name, in_axis, out_axis = weight
    source = scope.array(x)
    outputs = _outputs(scope, node, name, out_axis)
    consumed = scope.axis(name, in_axis, "consumed")
    operands = [(source, scope.shape(x)), (consumed, (len(consumed),))]
    source, _ = combine(scope.labels, operands, eager=scope.eager)
    if bias is not None:
        stored, _ = _stored(scope, bias)
        if len(scope.shape(bias)) != 1:
            raise UnfollowedError("its bias is no vector")
        scope.labels.tie(scope.axis(stored, 0, "produced"), outputs)
    others = [axis for axis in varying(scope.labels.compress(source)) if axis != source.ndim - 1]
    if others and scope.eager:
        scope.labels.lock(outputs, Lock("it is applied to every part of its input alike"))
    if others:
        return scope.labels.compress(source.take([0], source.ndim - 1))
    return outputs.reshape([1] * (source.ndim - 1) + [-1])


def embedding(scope: Scope, node: fx.Node) -> Array:
    """The columns of the table are produced; its rows are looked up and stay."""
    given = arguments(node)
    name, _ = _stored(scope, given["weight"])
    scope.labels.lock(scope.array(given["indices"]), INDEX)
    outputs = _outputs(scope, node, name, 1)
    return _spread(outputs, -1, len(scope.shape(given["indices"])) + 1)


def channel_norm(scope: Scope, node: fx.Node) -> Array:
    """Batch and instance norms treat every channel by itself."""
    given = arguments(node)
    stored = [given[k] for k in ("weight", "bias", "running_mean", "running_var")]
    array = scope.array(given["input"])
    if given.get("training") or given.get("use_input_stats"):
        rest = [axis for axis in range(array.ndim) if axis > 1]
        array = reduce(scope.labels, array, rest, Lock("a norm runs over it"))
    return _per_channel(scope, given["input"], array, stored)


def prelu(scope: Scope, node: fx.Node) -> Array:
    """A slope for every channel, or one for all."""
    given = arguments(node)
    array, shape = scope.array(given["self"]), scope.shape(given["weight"])
    if shape in ((), (1,)) and array.shape[1:2] != (1,):
        return array
    return _per_channel(scope, given["self"], array, [given["weight"]])


def group_norm(scope: Scope, node: fx.Node) -> Array:
    """A group of a norm goes as a whole; a single group stays."""
    given = arguments(node)
    array, groups = scope.array(given["input"]), given["num_groups"]
    array = reduce(scope.labels, array, range(2, array.ndim), ONE_NORM_GROUP)
    if array.shape[1] > 1:
        split = array.reshape(array.shape[0], groups, -1, *array.shape[2:])
        reduce(scope.labels, split, [2], ONE_NORM_GROUP)
    return _per_channel(scope, given["input"], array, [given["weight"], given["bias"]])


def layer_norm(scope: Scope, node: fx.Node) -> Array:
    """What is normalised together stays together."""
    given = arguments(node)
    array, count = scope.array(given["input"]), len(given["normalized_shape"])
    array = reduce(scope.labels, array, range(-count, 0), NORMALIZED)
    operands = [(array, scope.shape(given["input"]))]
    for stored in (given["weight"], given.get("bias")):
        if stored is not None:
            operands.append((scope.array(stored), scope.shape(stored)))
    return combine(scope.labels, operands, eager=scope.eager)[0]


def _per_channel(scope: Scope, x: fx.Node, array: Array, stored: list[Any]) -> Array:
    operands = [(array, scope.shape(x))]
    for node in stored:
        if node is not None:
            labels = scope.axis(_stored(scope, node)[0], 0, "produced")
            spread = _spread(labels, 1, array.ndim)
            operands.append((spread, spread.shape))
    return combine(scope.labels, operands, eager=True)[0]


def _stored(scope: Scope, argument: object) -> tuple[str, tuple[int, ...]]:
    found = scope.weight(argument)
    if found is None:
        raise UnfollowedError("its weight is computed, not stored")
    return found


def _outputs(scope: Scope, node: fx.Node, name: str, axis: int) -> Array:
    scope.layers.setdefault((name, axis), Layer(node, name, axis))
    return scope.axis(name, axis, "produced")


def _along(array: Array, axis: int, size: int) -> Array:
    """Return the labels along ``axis``, the only one along which they may change."""
    if any(other != axis for other in varying(array)):
        raise UnfollowedError("its input was made of units along another axis")
    flat = array.reshape(-1)
    return flat if len(flat) == size else flat.repeat(size)


def _spread(labels: Array, axis: int, ndim: int) -> Array:
    shape = [1] * ndim
    shape[axis] = -1
    return labels.reshape(shape)


CONVOLUTIONS = (*PLAIN, *TRANSPOSED, aten.convolution.default)
PRODUCING: dict[object, Callable[[Scope, fx.Node], Any]] = {
    **dict.fromkeys(CONVOLUTIONS, convolution),
    aten.linear.default: linear,
    aten.addmm.default: addmm,
    aten.embedding.default: embedding,
}
LAYERS: dict[object, Callable[[Scope, fx.Node], Any]] = {
    **PRODUCING,
    aten.prelu.default: prelu,
    aten.batch_norm.default: channel_norm,
    aten.instance_norm.default: channel_norm,
    aten.group_norm.default: group_norm,
    aten.layer_norm.default: layer_norm,
    aten.rms_norm.default: layer_norm,
}
