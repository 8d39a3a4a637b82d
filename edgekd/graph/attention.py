"""Attention as two matrix products with a softmax between them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from edgekd.graph.tensors import clean, is_op, shape_of

aten = torch.ops.aten


def decompose_attention(module: fx.GraphModule) -> int:
    """Write ``scaled_dot_product_attention`` out; return how many were.

    ``softmax(q @ k^T * scale + mask) @ v`` (Vaswani et al., arXiv 1706.03762, eq. 1), the scale
    behind the product, where ONNX Runtime merges it into the product. Torch's exporter would
    compute the scale and the shapes while the model runs, and quantizers could not stand between
    the steps. With a mask of booleans a query that may see no key at all gives zeros, as in torch;
    with a mask of numbers such a query must not be all ``-inf``.

    Left alone: causal masks, dropout, and fewer key heads than query heads.
    """
    nodes = [n for n in module.graph.nodes if is_op(n, aten.scaled_dot_product_attention.default)]
    found = sum(_decompose(module, node) for node in nodes)
    clean(module)
    return found


def _decompose(module: fx.GraphModule, node: fx.Node) -> bool:
    given: list[Any] = list(node.args)
    query, key, value, mask, dropout, causal = given + [None, 0.0, False][len(given) - 3 :]
    dropout = node.kwargs.get("dropout_p", dropout)
    causal = node.kwargs.get("is_causal", causal)
    mask = node.kwargs.get("attn_mask", mask)
    shape, keys = shape_of(query), shape_of(key)
    if dropout or causal or node.kwargs.get("enable_gqa") or shape is None or keys is None:
        return False
    if not isinstance(shape[-1], int):
        return False
    scale = node.kwargs.get("scale")
    call = module.graph.call_function
    with module.graph.inserting_before(node):
        turned = call(aten.transpose.int, (key, -2, -1))
        turned.meta = {"val": key.meta["val"].transpose(-2, -1)}
        scores = call(aten.matmul.default, (query, turned))
        scores = call(
            aten.mul.Tensor, (scores, 1.0 / math.sqrt(shape[-1]) if scale is None else scale)
        )
        sees = None
        if mask is not None and mask.meta["val"].dtype == torch.bool:
            sees = call(aten.any.dim, (mask, -1, True))
            scores = call(aten.where.ScalarOther, (mask, scores, -math.inf))
        elif mask is not None:
            scores = call(aten.add.Tensor, (scores, mask))
        weights = call(aten.softmax.int, (scores, -1))
        if sees is not None:
            weights = call(aten.where.ScalarOther, (sees, weights, 0.0))
        result = call(aten.matmul.default, (weights, value))
    result.meta = dict(node.meta)
    node.replace_all_uses_with(result)
    # Not left to dead code elimination: it keeps what may draw random numbers for dropout.
    module.graph.erase_node(node)
    return True
