"""Layers of a program: what has a stored weight, in float or behind integers, and what it costs."""

from __future__ import annotations

import math

import torch
from torch import Tensor, fx

from edgekd.graph.tensors import constant, is_op, shape_of

aten = torch.ops.aten

CONVOLUTIONS = (
    aten.conv1d.default,
    aten.conv2d.default,
    aten.conv3d.default,
    aten.conv1d.padding,
    aten.conv2d.padding,
    aten.conv3d.padding,
)
TRANSPOSED = (
    aten.conv_transpose1d.default,
    aten.conv_transpose2d.input,
    aten.conv_transpose3d.input,
)
LINEARS = (aten.linear.default,)
PRODUCTS = (aten.matmul.default, aten.bmm.default)


def stored_weight(module: fx.GraphModule, node: fx.Node) -> Tensor | None:
    """Return the weight of a layer, its integers where it is dequantized; None without one."""
    if not is_op(node, *CONVOLUTIONS, *TRANSPOSED, *LINEARS, *PRODUCTS):
        return None
    found = [_stored(module, operand) for operand in node.args[:2]]
    return next((tensor for tensor in reversed(found) if tensor is not None), None)


def layer_macs(module: fx.GraphModule, node: fx.Node) -> int:
    """Return the multiplications of one sample in a layer, 0 for anything else.

    Each output value takes as many as one filter has weights; with a transposed convolution, each
    input value.
    """
    weight = stored_weight(module, node)
    values = node.args[0] if is_op(node, *TRANSPOSED) else node
    shape = shape_of(values) if isinstance(values, fx.Node) else None
    if weight is None or shape is None:
        return 0
    count = math.prod(int(size) for size in shape[1:] if isinstance(size, int))
    return count * (weight[0].numel() if weight.ndim > 1 else 1)


def is_quantized(module: fx.GraphModule) -> bool:
    """Tell whether a program has been converted to integers, in whole or in part."""
    return any(is_grid_step(node) for node in module.graph.nodes)


def is_grid_step(node: object) -> bool:
    """Tell whether ``node`` quantizes or dequantizes, by the operators that conversion inserts."""
    if not isinstance(node, fx.Node) or node.op != "call_function":
        return False
    return str(node.target).startswith("quantized_decomposed.")


def _stored(module: fx.GraphModule, operand: object) -> Tensor | None:
    if isinstance(operand, fx.Node) and is_grid_step(operand):
        read = operand.all_input_nodes
        stored = all(constant(module, node) is not None for node in read)
        return constant(module, read[0]) if stored else None
    return constant(module, operand)
