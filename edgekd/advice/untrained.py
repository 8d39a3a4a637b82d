"""The same network with weights that have learned nothing: what a similarity is held against."""

from __future__ import annotations

import math

import torch
from torch import Tensor, fx

from edgekd.graph.layers import CONVOLUTIONS, LINEARS, PRODUCTS, TRANSPOSED
from edgekd.graph.program import clone
from edgekd.graph.tensors import constant, is_op

aten = torch.ops.aten

_NORMS = (
    aten.batch_norm.default,
    aten.layer_norm.default,
    aten.group_norm.default,
    aten.instance_norm.default,
    aten.rms_norm.default,
)
_LAYERS = (*CONVOLUTIONS, *TRANSPOSED, *LINEARS, *PRODUCTS)


@torch.no_grad()
def untrained(module: fx.GraphModule, seed: int) -> fx.GraphModule:
    """Return a copy of ``module`` whose weights are drawn anew; the same ``seed``, the same copy.

    Weights of layers are normal with the variance ``2 / fan in`` (He et al., ICCV 2015, arXiv
    1502.01852, equation 10), their biases 0. Norms neither scale nor shift, and batch norms count
    on a mean of 0 and a variance of 1. What else was learned (positions, tokens, tables) is normal
    with a deviation of 0.02. Constants that are no parameters, but for those statistics, stay.
    """
    copy = clone(module)
    generator = torch.Generator().manual_seed(seed)
    parameters = {parameter.data_ptr() for parameter in copy.parameters()}
    done: set[int] = set()
    for node in copy.graph.nodes:
        tensor = constant(copy, node)
        if tensor is None or not tensor.is_floating_point() or tensor.data_ptr() in done:
            continue
        if reader := next(iter(node.users), None):
            learned = tensor.data_ptr() in parameters
            _draw(tensor, node, reader, generator, learned=learned)
            done.add(tensor.data_ptr())
    return copy


def _draw(
    tensor: Tensor, node: fx.Node, reader: fx.Node, generator: torch.Generator, *, learned: bool
) -> None:
    place = reader.args.index(node) if node in reader.args else -1
    if is_op(reader, *_NORMS):
        numbers = [i for i, arg in enumerate(reader.args) if isinstance(arg, fx.Node)]
        # (input, weight, bias, mean, variance): the weight and the variance are 1
        if learned:
            first = next(i for i in numbers if i > 0)
            tensor.fill_(float(place == first))
        elif is_op(reader, aten.batch_norm.default):
            tensor.fill_(float(place == 4))
    elif not learned:
        return
    elif is_op(reader, *_LAYERS) and tensor.ndim > 1:
        turned = is_op(reader, *TRANSPOSED) or (is_op(reader, *PRODUCTS) and place == 1)
        fan_in = tensor.shape[0] if turned else tensor[0].numel()
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * math.sqrt(2 / fan_in))
    elif is_op(reader, *_LAYERS):
        tensor.zero_()
    else:
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.02)
