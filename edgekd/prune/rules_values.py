"""Rules for operations without weights that compute new values: sums, means, pooling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import fx

from edgekd.prune.combine import combine, reduce
from edgekd.prune.labels import Array, Lock
from edgekd.prune.scope import Scope, arguments

aten = torch.ops.aten


def elementwise(scope: Scope, node: fx.Node) -> Array:
    """Elements that meet each other belong together."""
    tensors = [n for n in node.all_input_nodes if scope.is_tensor(n)]
    operands = [(scope.array(n), scope.shape(n)) for n in tensors]
    return combine(scope.labels, operands, eager=scope.eager)[0]


def same(scope: Scope, node: fx.Node) -> Array:
    """The output is its first input, as far as units are concerned."""
    return scope.array(node.all_input_nodes[0])


def gated(scope: Scope, node: fx.Node) -> Array:
    """``glu``: one half of an axis times the sigmoid of the other."""
    source = node.all_input_nodes[0]
    array, shape = scope.array(source), scope.shape(node)
    axis = arguments(node)["dim"] % len(shape)
    if array.shape[axis] == 1:
        return array
    first, second = np.split(array, 2, axis)
    return combine(scope.labels, [(first, shape), (second, shape)], eager=scope.eager)[0]


def reduction(scope: Scope, node: fx.Node) -> Any:
    """What is reduced together has to stay together."""
    given = arguments(node)
    array = scope.array(node.all_input_nodes[0])
    axes = given.get("dim")
    axes = [axes] if isinstance(axes, int) else list(axes or range(array.ndim))
    lock = Lock(f"{_name(node)} runs over all of it")
    result = reduce(scope.labels, array, axes, lock)
    value = scope.value(node)
    parts = value if isinstance(value, list) else [value]
    if len(parts[0]) != array.ndim:
        kept = [axis for axis in range(array.ndim) if axis not in {a % array.ndim for a in axes}]
        result = result.reshape([result.shape[axis] for axis in kept])
    return [result] * len(parts) if isinstance(value, list) else result


def along_axis(scope: Scope, node: fx.Node) -> Array:
    """Softmax and the like: the shape stays, but all along one axis depends on each other."""
    array = scope.array(node.all_input_nodes[0])
    lock = Lock(f"{_name(node)} runs over all of it")
    return reduce(scope.labels, array, [arguments(node)["dim"]], lock)


def pooling(scope: Scope, node: fx.Node) -> Any:
    """Every channel is pooled or resized by itself."""
    array = scope.array(node.all_input_nodes[0])
    value = scope.value(node)
    first = value[0] if isinstance(value, list) else value
    lock = Lock(f"{_name(node)} runs over all of it")
    spatial = next(int(c) for c in _name(node) if c.isdigit())
    array = reduce(scope.labels, array, range(-spatial, 0), lock)
    assert len(first) == array.ndim
    return [array] * len(value) if isinstance(value, list) else array


def _name(node: fx.Node) -> str:
    return str(node.target).split(".")[1]


VALUES: dict[object, Callable[[Scope, fx.Node], Any]] = {
    # These are element-wise too, but torch does not tag them so.
    **dict.fromkeys(
        [
            aten.floor_divide.default,
            aten.hardswish.default,
            aten.log_sigmoid.default,
            aten.masked_fill.Tensor,
            aten.rsub.Tensor,
            aten.where.Scalar,
            aten.where.ScalarOther,
            aten.where.ScalarSelf,
        ],
        elementwise,
    ),
    **dict.fromkeys(
        [
            aten.alias.default,
            aten.clone.default,
            aten.contiguous.default,
            aten.detach.default,
            aten.detach_.default,
            aten.dropout.default,
            aten.feature_dropout.default,
            aten.lift_fresh_copy.default,
            aten._to_copy.default,
            aten.full_like.default,
            aten.ones_like.default,
            aten.to.dtype,
            aten.to.device,
            aten.to.dtype_layout,
            aten.type_as.default,
            aten.zeros_like.default,
        ],
        same,
    ),
    **dict.fromkeys(
        [
            aten.all.dim,
            aten.amax.default,
            aten.amin.default,
            aten.any.dim,
            aten.argmax.default,
            aten.argmin.default,
            aten.linalg_vector_norm.default,
            aten.logsumexp.default,
            aten.max.default,
            aten.max.dim,
            aten.mean.default,
            aten.mean.dim,
            aten.min.default,
            aten.min.dim,
            aten.norm.ScalarOpt_dim,
            aten.prod.dim_int,
            aten.std.correction,
            aten.std.dim,
            aten.sum.default,
            aten.sum.dim_IntList,
            aten.var.correction,
            aten.var.dim,
        ],
        reduction,
    ),
    **dict.fromkeys(
        [
            aten._softmax.default,
            aten.cumsum.default,
            aten.log_softmax.int,
            aten.softmax.int,
        ],
        along_axis,
    ),
    **dict.fromkeys(
        [
            aten.adaptive_avg_pool1d.default,
            aten.adaptive_avg_pool2d.default,
            aten.adaptive_avg_pool3d.default,
            aten.adaptive_max_pool1d.default,
            aten.adaptive_max_pool2d.default,
            aten.avg_pool1d.default,
            aten.avg_pool2d.default,
            aten.avg_pool3d.default,
            aten.max_pool1d.default,
            aten.max_pool2d.default,
            aten.max_pool2d_with_indices.default,
            aten.max_pool3d.default,
            aten.upsample_bicubic2d.vec,
            aten.upsample_bilinear2d.vec,
            aten.upsample_linear1d.vec,
            aten.upsample_nearest1d.vec,
            aten.upsample_nearest2d.vec,
        ],
        pooling,
    ),
    aten.glu.default: gated,
}
