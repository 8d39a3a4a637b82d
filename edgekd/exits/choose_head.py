"""Which head fits a place."""

from __future__ import annotations

import math
from typing import TypeAlias

import torch
from torch import fx

from edgekd.exits.heads import (
    AttentionHead,
    ConvHead,
    LinearHead,
    LocalHead,
    head_convs,
    token_grid,
)
from edgekd.graph.cuts import cuts
from edgekd.graph.layers import layer_macs
from edgekd.graph.tensors import constant, is_op, shape_of

aten = torch.ops.aten
Head: TypeAlias = LinearHead | ConvHead | LocalHead | AttentionHead
HEAD_COST = 0.05  # of the model's multiplications, for a head of convolutions
DEEP = 0.8  # share of the cost behind which one convolution does
SHALLOW = 0.5  # share of the cost up to which a head has to make up for missing layers
HEAD_WIDTH = 32  # of one attention head, as far as the width allows it


def make_head(
    module: fx.GraphModule, place: fx.Node, share: float, kind: str, classes: int
) -> Head:
    """Return a new head for the tensor at ``place``, which lies behind ``share`` of all cost.

    ``kind`` is that of a recipe's ``head``. ``auto``: convolutions on feature maps, up to three
    where they cost little; on a square of tokens LGViT's local head in the first half
    and its attention head in the second; else one linear layer. The last layer starts as the
    model's own where that has the same shape. Raises ValueError with the reason where the tensor
    cannot have such a head.
    """
    shape = shape_of(place)
    assert shape is not None
    if not all(isinstance(size, int) for size in shape[1:]):
        raise ValueError(f"{place.name} has axes of free size besides the batch")
    sizes = tuple(int(size) for size in shape[1:])
    tokens = len(sizes) == 2 and not _is_signal(place)
    head = _make(module, sizes, share, kind, classes, tokens=tokens)
    classifier = _own_classifier(module, classes)
    if classifier is not None and head.linear.weight.shape == classifier[0].shape:
        with torch.no_grad():
            head.linear.weight.copy_(classifier[0])
            if classifier[1] is not None:
                head.linear.bias.copy_(classifier[1])
    return head


def _make(
    module: fx.GraphModule,
    sizes: tuple[int, ...],
    share: float,
    kind: str,
    classes: int,
    *,
    tokens: bool,
) -> Head:
    grid = token_grid(sizes[0]) if tokens else None
    width = sizes[1] if tokens else sizes[0]
    if kind == "auto":
        if len(sizes) == 3:
            kind = "conv"
        elif grid is not None:
            kind = "conv" if share <= SHALLOW else "attention"
        else:
            kind = "linear"
    if kind == "linear":
        return LinearHead(width, classes, tokens=tokens)
    if kind == "conv" and len(sizes) == 3:
        last = _last_map(module, len(sizes)) or sizes
        stride = max(1, sizes[1] // max(1, last[1]))
        size = (last[0], last[1], last[2])
        convs = _convs(module, width, size, share)
        return ConvHead(width, size, classes, stride=stride, convs=convs)
    if grid is None:
        has = "x".join(map(str, sizes))
        raise ValueError(
            f"a head of kind {kind!r} needs {'a feature map or ' if kind == 'conv' else ''}tokens "
            f"in a square, and the tensor is {has}"
        )
    if kind == "conv":
        return LocalHead(width, *grid, classes)
    heads = max(1, width // HEAD_WIDTH)
    while width % heads:
        heads -= 1
    stride = 2 if share <= 0.75 else 3
    return AttentionHead(width, *grid, classes, stride=min(stride, grid[0][0]), heads=heads)


def _convs(module: fx.GraphModule, width: int, last: tuple[int, int, int], share: float) -> int:
    """Return how many convolutions a head has, from 1 to 3: as many as ``HEAD_COST`` allows.

    A shallow exit has layers to make up for, and each sample that does not leave pays for them too.
    """
    if share > DEEP:
        return 1
    total = sum(layer_macs(module, node) for node in module.graph.nodes)
    work = 0
    for count, (inputs, size, _) in enumerate(head_convs(width, last, 3)):
        work += 9 * inputs * last[0] * math.prod(size)
        if count and work > HEAD_COST * total:
            return count
    return 3


def _is_signal(place: fx.Node) -> bool:
    """Tell whether ``(N, C, L)`` is read as channels of a signal and not as tokens."""
    convolutions = (aten.conv1d.default, aten.conv1d.padding, aten.conv_transpose1d.default)
    pools = (aten.avg_pool1d.default, aten.adaptive_avg_pool1d.default, aten.max_pool1d.default)
    near = [place, *place.users, *place.all_input_nodes]
    near += [node for user in place.users for node in user.users]
    return any(is_op(node, *convolutions, *pools) for node in near)


def _last_map(module: fx.GraphModule, axes: int) -> tuple[int, ...] | None:
    """Return the size of the last feature map that alone carries what was computed."""
    found = None
    for node in cuts(module):
        shape = shape_of(node)
        fixed = shape is not None and all(isinstance(size, int) for size in shape[1:])
        if shape is not None and fixed and len(shape) == axes + 1 and shape[2] != 1:
            found = tuple(int(size) for size in shape[1:])
    return found


def _own_classifier(
    module: fx.GraphModule, classes: int
) -> tuple[torch.Tensor, torch.Tensor | None] | None:
    """Return weight and bias of the last linear layer, if it gives the logits and is in float."""
    layers = [node for node in module.graph.nodes if is_op(node, aten.linear.default)]
    weight = constant(module, layers[-1].args[1]) if layers else None
    if weight is None or len(weight) != classes:
        return None
    bias = layers[-1].args[2] if len(layers[-1].args) > 2 else None
    return weight, constant(module, bias)
