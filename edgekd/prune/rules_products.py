"""Rules for products of two matrices, and for attention, which is made of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from edgekd.prune.combine import combine, reduce
from edgekd.prune.labels import Array, Lock
from edgekd.prune.rules_layers import product_with_weight
from edgekd.prune.scope import Scope, UnfollowedError, arguments

aten = torch.ops.aten
CONTRACTED = Lock("all of it is multiplied with another tensor and summed")


def product(scope: Scope, node: fx.Node) -> Array:
    """``a @ b``: a layer if b is a stored matrix; else what is contracted belongs together."""
    left, right = (n for n in node.args[-2:] if isinstance(n, fx.Node))
    stored = scope.weight(right)
    if stored is not None and len(stored[1]) == 2 and scope.weight(left) is None:
        return product_with_weight(scope, node, left, right)
    return contract(scope, left, right)


def contract(scope: Scope, left: fx.Node, right: fx.Node, *, transposed: bool = False) -> Array:
    """Return the labels of ``left @ right``, or of ``left @ right^T``.

    One contracted vector is one unit: a head of an attention, if there are several of them.
    """
    a, a_shape = scope.array(left), scope.shape(left)
    b, b_shape = scope.array(right), scope.shape(right)
    if len(a_shape) < 2 or len(b_shape) < 2:
        raise UnfollowedError("it multiplies with a vector")
    if transposed:
        b, b_shape = b.swapaxes(-2, -1), (*b_shape[:-2], b_shape[-1], b_shape[-2])
    for array in (a, b):
        if array.size > 1:
            scope.labels.mark_heads(array)
    a = reduce(scope.labels, a, [-1], CONTRACTED)
    b = reduce(scope.labels, b, [-2], CONTRACTED)
    operands = [(a, (*a_shape[:-1], 1)), (b, (*b_shape[:-2], 1, b_shape[-1]))]
    return combine(scope.labels, operands, eager=True)[0]


def attention(scope: Scope, node: fx.Node) -> Array:
    """Attention that stayed in one piece: causal, or with dropout."""
    given = arguments(node)
    if given.get("enable_gqa"):
        raise UnfollowedError("it shares keys among queries")
    query, key, value, mask = (given[k] for k in ("query", "key", "value", "attn_mask"))
    scores = contract(scope, query, key, transposed=True)
    shape = (*scope.shape(query)[:-1], scope.shape(key)[-2])
    if mask is not None:
        operands = [(scores, shape), (scope.array(mask), scope.shape(mask))]
        scores, _ = combine(scope.labels, operands, eager=True)
    scores = reduce(scope.labels, scores, [-1], CONTRACTED)
    v, v_shape = scope.array(value), scope.shape(value)
    v = reduce(scope.labels, v, [-2], CONTRACTED)
    operands = [(scores, (*shape[:-1], 1)), (v, (*v_shape[:-2], 1, v_shape[-1]))]
    return combine(scope.labels, operands, eager=True)[0]


PRODUCTS: dict[object, Callable[[Scope, fx.Node], Any]] = {
    aten.bmm.default: product,
    aten.matmul.default: product,
    aten.mm.default: product,
    aten.scaled_dot_product_attention.default: attention,
}
