"""Token-wise operations on one long list of tokens instead of a batch of lists."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from edgekd.graph.tensors import clean, constant, is_float_tensor, is_op, shape_of

aten = torch.ops.aten

_ACTIVATIONS = (aten.gelu.default, aten.relu.default, aten.silu.default, aten.tanh.default)
_SUMS = (aten.add.Tensor, aten.mul.Tensor)


def flatten_tokens(module: fx.GraphModule) -> int:
    """Rewrite linear layers on ``(N, T, C)`` to work on ``(N * T, C)``; return how many.

    With them go the operations around that treat every token alike: LayerNorm, activations, sums
    of two such tensors. So tensors are reshaped only where tokens meet (attention, pooling). All
    axes but the first must have a fixed size. What it is for is in ``docs/quantization.md``: a
    linear layer on two axes takes its bias along, and a sum in front of a LayerNorm stays a sum.
    """
    inside = _regions(module)
    flat: dict[fx.Node, fx.Node] = {}
    for node in [n for n in module.graph.nodes if n in inside]:
        for source in _operands(node):
            if source in inside:
                continue
            if source not in flat:
                flat[source] = _reshape_behind(module, source, (-1, _sizes(source)[-1]))
            node.replace_input_with(source, flat[source])
    for node in inside:
        outside = {user for user in node.users if user not in inside}
        if outside:
            whole = _reshape_behind(module, node, (-1, *_sizes(node)[1:]))
            node.replace_all_uses_with(whole, delete_user_cb=outside.__contains__)
    _merge_reshapes(module)
    clean(module)
    return sum(is_op(node, aten.linear.default) for node in inside)


def _regions(module: fx.GraphModule) -> set[fx.Node]:
    """Return the token-wise operations that hang together with a linear layer."""
    candidates = {node for node in module.graph.nodes if _is_token_wise(module, node)}
    found: set[fx.Node] = set()
    frontier = {node for node in candidates if is_op(node, aten.linear.default)}
    while frontier:
        node = frontier.pop()
        found.add(node)
        frontier |= candidates.intersection((*_operands(node), *node.users)) - found
    return found


def _is_token_wise(module: fx.GraphModule, node: fx.Node) -> bool:
    shape = shape_of(node)
    if shape is None or len(shape) < 3 or not all(isinstance(size, int) for size in shape[1:]):
        return False
    if is_op(node, aten.linear.default):
        source = shape_of(_operands(node)[0])
        return constant(module, node.args[1]) is not None and source is not None
    if is_op(node, aten.layer_norm.default):
        return len(node.args[1]) == 1  # type: ignore[arg-type]
    if is_op(node, *_SUMS):
        tensors = [n for n in node.args[:2] if isinstance(n, fx.Node)]
        same = all(_same_shape(shape_of(n), shape) and is_float_tensor(n) for n in tensors)
        return len(tensors) == 2 and same
    return is_op(node, *_ACTIVATIONS)


def _same_shape(left: Any, right: Any) -> bool:
    return left is not None and tuple(map(str, left)) == tuple(map(str, right))


def _operands(node: fx.Node) -> list[fx.Node]:
    """Return the computed tensors that a token-wise operation reads."""
    given = node.args[:2] if is_op(node, *_SUMS) else node.args[:1]
    return [n for n in given if isinstance(n, fx.Node)]


def _sizes(node: fx.Node) -> tuple[int, ...]:
    shape = shape_of(node)
    assert shape is not None
    return tuple(size if isinstance(size, int) else -1 for size in shape)


def _reshape_behind(module: fx.GraphModule, node: fx.Node, sizes: tuple[int, ...]) -> fx.Node:
    with module.graph.inserting_after(node):
        return module.graph.call_function(aten.reshape.default, (node, list(sizes)))


def _merge_reshapes(module: fx.GraphModule) -> None:
    """Skip a reshape whose result is only reshaped again."""
    for node in module.graph.nodes:
        source = node.args[0] if is_op(node, aten.reshape.default) else None
        if isinstance(source, fx.Node) and is_op(source, aten.reshape.default):
            node.args = (source.args[0], *node.args[1:])
