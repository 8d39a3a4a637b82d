"""Rewrites that keep a program's output and give every runtime operations it can run on integers.

What each rewrite is for was measured on ONNX Runtime 1.31 (``docs/quantization.md``): Pad and
ReduceMean have no integer kernel there, convolution and AveragePool do.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from edgekd.graph.attention import decompose_attention
from edgekd.graph.batchnorm import fold_batch_norm
from edgekd.graph.tensors import add_tensor, clean, constant, is_op, shape_of, static_spatial
from edgekd.graph.tokens import flatten_tokens

aten = torch.ops.aten

OUT_OF_PLACE = {
    aten.relu_.default: aten.relu.default,
    aten.add_.Tensor: aten.add.Tensor,
    aten.mul_.Tensor: aten.mul.Tensor,
    aten.hardtanh_.default: aten.hardtanh.default,
    aten.relu6_.default: aten.relu6.default,
    aten.clamp_.default: aten.clamp.default,
    aten.silu_.default: aten.silu.default,
    aten.hardswish_.default: aten.hardswish.default,
    aten.hardsigmoid_.default: aten.hardsigmoid.default,
    aten.leaky_relu_.default: aten.leaky_relu.default,
}


def canonicalize(module: fx.GraphModule) -> None:
    """Rewrite ``module`` in place into the form that the quantizer placement expects."""
    make_functional(module)
    spell_out_alpha(module)
    remove_identities(module)
    resolve_padding(module)
    fold_batch_norm(module)
    replace_padded_shortcuts(module)
    unify_global_pooling(module)
    decompose_attention(module)
    flatten_tokens(module)
    clean(module)


def make_functional(module: fx.GraphModule) -> None:
    """Replace in-place activations and sums by their pure twins.

    Whoever reads the overwritten tensor later gets the new value, as in eager execution.
    """
    for node in list(module.graph.nodes):
        if node.op != "call_function" or node.target not in OUT_OF_PLACE:
            continue
        node.target = OUT_OF_PLACE[node.target]
        overwritten = node.args[0]
        following = _nodes_after(node)
        overwritten.replace_all_uses_with(node, delete_user_cb=following.__contains__)


def _nodes_after(node: fx.Node) -> set[fx.Node]:
    following, current = set(), node.next
    while current.op != "root":
        following.add(current)
        current = current.next
    return following


def spell_out_alpha(module: fx.GraphModule) -> None:
    """Write ``add(x, y, alpha=a)`` as a product and a sum, which is what ONNX makes of it.

    So the sum is one of two tensors like any other, and its operands can get quantizers.
    """
    for node in list(module.graph.nodes):
        alpha = node.kwargs.get("alpha", 1)
        if not is_op(node, aten.add.Tensor) or alpha == 1 or not isinstance(node.args[1], fx.Node):
            continue
        with module.graph.inserting_before(node):
            scaled = module.graph.call_function(aten.mul.Tensor, (node.args[1], alpha))
        scaled.meta = dict(node.args[1].meta)
        node.args, node.kwargs = (node.args[0], scaled), {}


def remove_identities(module: fx.GraphModule) -> None:
    """Drop copies, dropout in inference mode and slices that take a whole axis."""
    for node in list(module.graph.nodes):
        if is_op(node, aten.view.default):
            node.target = aten.reshape.default  # view relies on the copies that are dropped
        idle_dropout = is_op(node, aten.dropout.default) and not node.args[2]
        copy = is_op(node, aten.clone.default, aten.contiguous.default)
        if idle_dropout or copy or (is_op(node, aten.slice.Tensor) and _takes_everything(node)):
            node.replace_all_uses_with(node.args[0])
            # Not left to dead code elimination: it keeps dropout, which draws random numbers.
            module.graph.erase_node(node)
    clean(module)


def resolve_padding(module: fx.GraphModule) -> None:
    """Write the padding of convolutions with ``same`` or ``valid`` as numbers.

    An even kernel needs more on one side than on the other, which the numbers cannot say; such a
    convolution stays as it is.
    """
    twins = {
        aten.conv1d.padding: aten.conv1d.default,
        aten.conv2d.padding: aten.conv2d.default,
        aten.conv3d.padding: aten.conv3d.default,
    }
    for node in module.graph.nodes:
        if not is_op(node, *twins):
            continue
        given: list[Any] = list(node.args)
        given += [None, 1, "valid", 1, 1][len(given) - 2 :]
        kernel = constant(module, given[1])
        if kernel is None:
            continue
        sizes = kernel.shape[2:]
        for position in (3, 5):  # stride and dilation: one number may stand for every axis
            if not isinstance(given[position], (list, tuple)):
                given[position] = [given[position]]
            given[position] = list(given[position]) * (len(sizes) // len(given[position]))
        reach = [d * (size - 1) for d, size in zip(given[5], sizes, strict=True)]
        if given[4] == "valid":
            reach = [0] * len(sizes)
        if any(r % 2 for r in reach):
            continue
        given[4] = [r // 2 for r in reach]
        node.target, node.args, node.kwargs = twins[node.target], tuple(given), {}


def _takes_everything(node: fx.Node) -> bool:
    given: list[Any] = list(node.args[1:])
    _, start, _, step = given + [0, None, None, 1][len(given) :]
    return bool(start in (0, None) and _reaches_end(node) and step == 1)


def _reaches_end(node: fx.Node) -> bool:
    """Tell whether a slice goes on to the end of its axis."""
    given: list[Any] = list(node.args[1:])
    axis, _, end, _ = given + [0, None, None, 1][len(given) :]
    shape = shape_of(node.args[0]) if isinstance(node.args[0], fx.Node) else None
    size = shape[axis] if shape is not None and isinstance(axis, int) else None
    return end is None or (
        isinstance(end, int) and end >= (size if isinstance(size, int) else 2**62)
    )


def replace_padded_shortcuts(module: fx.GraphModule) -> None:
    """Turn ``pad(x[:, :, ::s, ::s])`` over channels into one 1x1 convolution of stride s.

    This is the parameter-free shortcut of He et al. (arXiv 1512.03385, section 4.2, option A).
    The kernel is a 0/1 selection, so the result is exact, in float and in integers.
    """
    for node in list(module.graph.nodes):
        if not is_op(node, aten.pad.default, aten.constant_pad_nd.default):
            continue
        found = _padded_shortcut(node)
        if found is None:
            continue
        source, stride, before, after = found
        shape = shape_of(source)
        assert shape is not None
        kernel = _selection_kernel(int(shape[1]), before, after)
        read = add_tensor(module, f"{node.name}_shortcut.selection", kernel, before=node)
        with module.graph.inserting_before(node):
            conv = module.graph.call_function(
                aten.conv2d.default, (source, read, None, list(stride))
            )
        conv.meta = dict(node.meta)
        node.replace_all_uses_with(conv)
    clean(module)


def is_selection(conv: fx.Node) -> bool:
    """Tell whether a convolution only selects channels (see ``replace_padded_shortcuts``)."""
    weight = conv.args[1]
    return isinstance(weight, fx.Node) and str(weight.target).endswith("_shortcut.selection")


def _padded_shortcut(node: fx.Node) -> tuple[fx.Node, tuple[int, int], int, int] | None:
    """Return (input, stride, channels before, channels after) if the pattern matches."""
    padding: Any = node.args[1]
    constant_mode = len(node.args) < 3 or node.args[2] in ("constant", 0, 0.0)
    zero = len(node.args) < 4 or node.args[3] in (None, 0, 0.0)
    if not (isinstance(padding, (list, tuple)) and len(padding) == 6 and constant_mode and zero):
        return None
    left, right, top, bottom, before, after = padding
    if (left, right, top, bottom) != (0, 0, 0, 0) or min(before, after) < 0:
        return None
    source: Any = node.args[0]
    strides = {2: 1, 3: 1}
    while is_op(source, aten.slice.Tensor):
        axis, start, step = source.args[1], source.args[2], (*source.args, 1, 1)[4]
        if axis not in strides or start not in (0, None) or not isinstance(step, int):
            return None
        if not _reaches_end(source):
            return None
        strides[axis] *= step
        source = source.args[0]
    shape = shape_of(source) if isinstance(source, fx.Node) else None
    if shape is None or len(shape) != 4 or not isinstance(shape[1], int):
        return None
    assert isinstance(source, fx.Node)
    return source, (strides[2], strides[3]), before, after


def _selection_kernel(channels: int, before: int, after: int) -> Tensor:
    kernel = torch.zeros(before + channels + after, channels, 1, 1)
    kernel[before : before + channels, :, 0, 0] = torch.eye(channels)
    return kernel


def unify_global_pooling(module: fx.GraphModule) -> None:
    """Write mean over H and W, and adaptive pooling to 1x1, as one average pooling.

    So, too, the mean over the last axis of a signal ``(N, C, L)``.
    """
    for node in list(module.graph.nodes):
        _unify_mean_of_signal(module, node)
        spatial = static_spatial(node.args[0]) if node.args else None
        if spatial is None or not _pools_everything(node, spatial):
            continue
        with module.graph.inserting_before(node):
            pooled = module.graph.call_function(
                aten.avg_pool2d.default, (node.args[0], list(spatial), list(spatial))
            )
            pooled.meta = dict(node.meta)
            if is_op(node, aten.mean.dim) and not _keeps_axes(node):
                pooled = module.graph.call_function(aten.flatten.using_ints, (pooled, 1))
                pooled.meta = dict(node.meta)
        node.replace_all_uses_with(pooled)
    clean(module)


def _unify_mean_of_signal(module: fx.GraphModule, node: fx.Node) -> None:
    if not is_op(node, aten.mean.dim) or _keeps_axes(node):
        return
    shape = shape_of(node.args[0]) if isinstance(node.args[0], fx.Node) else None
    length = shape[2] if shape is not None and len(shape) == 3 else None
    if not isinstance(length, int) or [axis % 3 for axis in node.args[1]] != [2]:  # type: ignore
        return
    with module.graph.inserting_before(node):
        pooled = module.graph.call_function(
            aten.avg_pool1d.default, (node.args[0], [length], [length])
        )
        flat = module.graph.call_function(aten.flatten.using_ints, (pooled, 1))
    pooled.meta, flat.meta = dict(node.meta), dict(node.meta)
    node.replace_all_uses_with(flat)


def _pools_everything(node: fx.Node, spatial: tuple[int, int]) -> bool:
    if is_op(node, aten.adaptive_avg_pool2d.default):
        return list(node.args[1]) in ([1, 1], [1])  # type: ignore[arg-type]
    if is_op(node, aten.mean.dim):
        return sorted(axis % 4 for axis in node.args[1]) == [2, 3]  # type: ignore
    if is_op(node, aten.avg_pool2d.default) and len(node.args) == 2:
        kernel = node.args[1]
        return isinstance(kernel, (list, tuple)) and tuple(kernel) == spatial
    return False


def _keeps_axes(node: fx.Node) -> bool:
    return bool(node.args[2]) if len(node.args) > 2 else bool(node.kwargs.get("keepdim"))
