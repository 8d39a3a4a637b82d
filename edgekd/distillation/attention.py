"""Where a program computes attention: queries, keys and values of its last layer."""

from __future__ import annotations

import torch
from torch import fx

from edgekd.distillation.pairing import Place
from edgekd.graph.tensors import is_op, shape_of

aten = torch.ops.aten

_PRODUCTS = (aten.matmul.default, aten.bmm.default)
_BETWEEN = (  # what may stand between the product and the softmax, and behind it
    aten.mul.Tensor,
    aten.div.Tensor,
    aten.add.Tensor,
    aten.where.ScalarOther,
    aten.masked_fill.Scalar,
    aten.dropout.default,
    aten.clone.default,
)
_SOFTMAX = (aten.softmax.int, aten._softmax.default)


def last_attention(module: fx.GraphModule) -> tuple[Place, Place, Place] | None:
    """Return queries and values ``(heads, T, d)`` and keys ``(heads, d, T)`` of the last attention.

    That is a softmax between two products of tensors with a head axis, as ``float_form`` writes
    attention. None where there is none.
    """
    nodes = list(module.graph.nodes)
    for node in reversed(nodes):
        scores = _product_before(node) if is_op(node, *_SOFTMAX) else None
        mixed = _product_behind(node) if scores is not None else None
        if scores is None or mixed is None:
            continue
        query, keys, value = scores.args[0], scores.args[1], mixed.args[1]
        shapes = [shape_of(x) if isinstance(x, fx.Node) else None for x in (query, keys, value)]
        if any(shape is None or len(shape) != 4 for shape in shapes):
            continue
        depth = (nodes.index(node) + 1) / len(nodes)
        q, k, v = (
            Place(x.name, tuple(int(size) for size in (shape_of(x) or ())[1:]), depth)
            for x in (query, keys, value)
            if isinstance(x, fx.Node)
        )
        return q, k, v
    return None


def _product_before(node: fx.Node) -> fx.Node | None:
    """Return the product whose scaled and masked result ``node`` reads."""
    for source in node.all_input_nodes:
        if is_op(source, *_PRODUCTS):
            return source
        if is_op(source, *_BETWEEN) and (found := _product_before(source)) is not None:
            return found
    return None


def _product_behind(node: fx.Node) -> fx.Node | None:
    """Return the product whose left side is the softmax."""
    for user in node.users:
        if is_op(user, *_PRODUCTS) and user.args[0] is node:
            return user
        if is_op(user, *_BETWEEN) and (found := _product_behind(user)) is not None:
            return found
    return None
