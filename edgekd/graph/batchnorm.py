"""Folding batch normalisation into the convolution or linear layer before it."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from edgekd.graph.tensors import add_tensor, clean, constant, free_name, is_op

aten = torch.ops.aten
_FOLDABLE = (
    aten.conv1d.default,
    aten.conv2d.default,
    aten.conv3d.default,
    aten.linear.default,
)


def batch_norms(module: fx.GraphModule) -> list[fx.Node]:
    """Return the batch norms that have stored statistics, in order."""
    found = (n for n in module.graph.nodes if is_op(n, aten.batch_norm.default))
    return [
        norm for norm in found if all(constant(module, norm.args[i]) is not None for i in (3, 4))
    ]


def fold_batch_norm(module: fx.GraphModule) -> int:
    """Fold every inference-mode batch norm that follows a layer of its own; return how many.

    ``w' = w * g / sqrt(v + eps)`` per output channel and ``b' = (b - m) * g / sqrt(v + eps) +
    beta`` (Jacob et al., CVPR 2018, arXiv 1712.05877, section 3.2). The layer's output must have
    no other reader.
    """
    folded = 0
    for node in list(module.graph.nodes):
        if is_op(node, aten.batch_norm.default) and _fold(module, node):
            folded += 1
    clean(module)
    return folded


def _fold(module: fx.GraphModule, norm: fx.Node) -> bool:
    layer = norm.args[0]
    if not is_op(layer, *_FOLDABLE) or not isinstance(layer, fx.Node) or len(layer.users) != 1:
        return False
    weight = constant(module, layer.args[1])
    mean, variance = constant(module, norm.args[3]), constant(module, norm.args[4])
    training = norm.args[5]
    if weight is None or mean is None or variance is None or training:
        return False
    factor, shift = _affine(module, norm, mean, variance)
    bias_node = layer.args[2] if len(layer.args) > 2 else None
    bias = constant(module, bias_node)
    if bias is None:
        bias = torch.zeros_like(mean)
    weight_node = layer.args[1]
    assert isinstance(weight_node, fx.Node)
    name = str(weight_node.target)
    if len(weight_node.users) > 1:
        return False  # a weight shared between layers cannot take two different norms
    new_weight = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
    new_bias = bias * factor + shift
    weight_read = add_tensor(module, name, new_weight, before=layer, trainable=True)
    bias_name = f"{name.removesuffix('weight')}bias" if name.endswith("weight") else f"{name}_bias"
    if not _reads_alone(layer, bias_node, bias_name):
        bias_name = free_name(module, bias_name)
    bias_read = add_tensor(module, bias_name, new_bias, before=layer, trainable=True)
    layer.args = (layer.args[0], weight_read, bias_read, *layer.args[3:])
    norm.replace_all_uses_with(layer)
    module.graph.erase_node(norm)
    return True


def _reads_alone(layer: fx.Node, bias: object, name: str) -> bool:
    """Tell whether ``name`` is the layer's own bias, which nothing else reads."""
    reads = [node for node in layer.graph.nodes if node.op == "get_attr" and node.target == name]
    return reads == [bias] and set(reads[0].users) == {layer}


def _affine(
    module: fx.GraphModule, norm: fx.Node, mean: Tensor, variance: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the norm as ``x * factor + shift``, computed in float64 and rounded once."""
    gamma, beta = constant(module, norm.args[1]), constant(module, norm.args[2])
    eps = norm.args[7]
    assert isinstance(eps, float)
    inverse = torch.rsqrt(variance.double() + eps)
    factor = inverse if gamma is None else gamma.double() * inverse
    shift = -mean.double() * factor
    if beta is not None:
        shift = shift + beta.double()
    return factor.detach().to(mean.dtype), shift.detach().to(mean.dtype)
