"""Which operations of an exported program matter to quantization."""

from __future__ import annotations

import torch
from torch import fx

from edgekd.graph.tensors import constant, is_float_tensor, is_op

aten = torch.ops.aten

CONVOLUTIONS = (aten.conv1d.default, aten.conv2d.default)
LINEARS = (aten.linear.default,)
WEIGHTED = CONVOLUTIONS + LINEARS
SUMS = (aten.add.Tensor, aten.mul.Tensor)
PRODUCTS = (aten.matmul.default, aten.bmm.default)
POOLINGS = (aten.avg_pool1d.default, aten.avg_pool2d.default)
CONCATENATIONS = (aten.cat.default,)
NORMS = (aten.layer_norm.default, aten.group_norm.default, aten.rms_norm.default)
# Operations that only move values: they run on integers when both sides share one scale.
MOVES = (
    aten.max_pool2d.default,
    aten.flatten.using_ints,
    aten.view.default,
    aten.reshape.default,
    aten.permute.default,
    aten.transpose.int,
    aten.squeeze.dim,
    aten.unsqueeze.default,
    aten.slice.Tensor,
)


def is_weighted(module: fx.GraphModule, node: fx.Node) -> bool:
    """Tell whether ``node`` is a convolution or linear layer with a stored weight."""
    return is_op(node, *WEIGHTED) and constant(module, node.args[1]) is not None


def is_tensor_pair(node: fx.Node) -> bool:
    """Tell whether ``node`` adds or multiplies two computed tensors (no scalar, no constant)."""
    operands = node.args[:2]
    computed = all(
        isinstance(a, fx.Node) and a.op != "get_attr" and is_float_tensor(a) for a in operands
    )
    return is_op(node, *SUMS) and computed and len(node.args) == 2 and not node.kwargs


def is_product(node: fx.Node) -> bool:
    """Tell whether ``node`` is a matrix product of two computed tensors, as attention has them."""
    computed = all(isinstance(a, fx.Node) and a.op != "get_attr" for a in node.args[:2])
    return is_op(node, *PRODUCTS) and computed


def is_softmax(node: fx.Node) -> bool:
    """Tell whether ``node`` is a softmax, whose values lie between 0 and 1."""
    return is_op(node, aten.softmax.int)


def is_relu(node: fx.Node) -> bool:
    """Tell whether ``node`` is a ReLU."""
    return is_op(node, aten.relu.default)


def clamp_ceiling(node: fx.Node) -> float | None:
    """Return c for an activation ``clamp(x, 0, c)`` such as ReLU6, else None."""
    if is_op(node, aten.relu6.default):
        return 6.0
    if is_op(node, aten.hardtanh.default, aten.clamp.default):
        low, high = (*node.args[1:], None, None)[:2]
        if low in (0, 0.0) and isinstance(high, (int, float)) and high > 0:
            return float(high)
    return None


def fused_value(node: fx.Node) -> fx.Node:
    """Return the node whose output a runtime materialises for ``node``.

    That is the ReLU or clamp behind it when nothing else reads ``node``, and ``node`` otherwise.
    """
    if len(node.users) == 1:
        (user,) = node.users
        if is_relu(user) or clamp_ceiling(user) is not None:
            return user
    return node
