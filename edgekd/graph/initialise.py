"""Weights of a trained program drawn anew, as the layers of torch draw theirs."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from functools import partial

import torch
from torch import Tensor, fx

from edgekd.graph.layers import CONVOLUTIONS, LINEARS, TRANSPOSED
from edgekd.graph.tensors import constant, is_op

aten = torch.ops.aten
Draw = Callable[[Tensor, torch.Generator], object]


def _uniform(bound: float, tensor: Tensor, generator: torch.Generator) -> None:
    tensor.uniform_(-bound, bound, generator=generator)


def _table(padding: int, tensor: Tensor, generator: torch.Generator) -> None:
    tensor.normal_(generator=generator)
    if padding >= 0:
        tensor[padding].zero_()


def _fill(value: float, tensor: Tensor, _: torch.Generator) -> None:
    tensor.fill_(value)


# What an operand of a norm starts from, by its place.
_STARTS = {
    aten.batch_norm.default: {1: 1.0, 2: 0.0, 3: 0.0, 4: 1.0},
    aten.instance_norm.default: {1: 1.0, 2: 0.0, 3: 0.0, 4: 1.0},
    aten.layer_norm.default: {2: 1.0, 3: 0.0},
    aten.group_norm.default: {2: 1.0, 3: 0.0},
    aten.rms_norm.default: {2: 1.0},
    aten.prelu.default: {1: 0.25},
}


def plan(module: fx.GraphModule, names: Collection[str]) -> dict[str, Draw]:
    """Say how each of ``names``, tensors that ``module`` reads, is drawn.

    As ``reset_parameters`` of torch's layers does it, told by the operator that reads the tensor:

    - linear and convolution layers, transposed ones too: weight and bias uniform within
      ``1 / sqrt(fan in)``, where fan in is the number of values in ``weight[0]``;
    - ``in_proj_weight`` of ``nn.MultiheadAttention`` uniform within ``sqrt(6 / (rows + columns))``,
      ``in_proj_bias`` 0;
    - norms: weight 1, bias 0, running mean 0, running variance 1;
    - ``nn.Embedding`` normal with deviation 1, the row of ``padding_idx`` 0; ``nn.PReLU`` 0.25.

    What a network's own code made of its weights behind that is not known here and not repeated.
    Raises ValueError, with the reason, for any other tensor: a learned position or token, a
    constant, weights of a recurrent layer.
    """
    found: dict[str, Draw] = {}
    for node in module.graph.nodes:
        name = str(node.target)
        if name not in names or name in found or constant(module, node) is None:
            continue
        draw = next((d for user in node.users if (d := _draw(module, node, user))), None)
        if draw is None:
            reader = next(iter(node.users), None)
            what = "nothing" if reader is None else str(reader.target)
            raise ValueError(
                f"{name!r} cannot be initialised anew: it is read by {what}, and which layer of "
                "torch it belongs to is not known; leave it out"
            )
        found[name] = draw
    return found


@torch.no_grad()
def initialise(module: fx.GraphModule, names: Collection[str], seed: int) -> None:
    """Draw the tensors ``names`` anew in place; the same ``seed``, the same numbers.

    Raises ValueError as ``plan`` does, before anything is changed.
    """
    draws = plan(module, names)
    generator = torch.Generator().manual_seed(seed)
    tensors = {str(n.target): constant(module, n) for n in module.graph.nodes if n.op == "get_attr"}
    for name, draw in draws.items():
        tensor = tensors[name]
        assert tensor is not None
        drawn = torch.empty_like(tensor, device="cpu")  # the same numbers on every device
        draw(drawn, generator)
        tensor.copy_(drawn)


def _draw(module: fx.GraphModule, node: fx.Node, reader: fx.Node) -> Draw | None:
    place = next((i for i, argument in enumerate(reader.args) if argument is node), -1)
    if is_op(reader, *_STARTS):
        value = _STARTS[reader.target].get(place)  # type: ignore[index]
        return None if value is None else partial(_fill, value)
    if is_op(reader, aten.embedding.default) and place == 0:
        padding = reader.args[2] if len(reader.args) > 2 else -1
        return partial(_table, padding if isinstance(padding, int) else -1)
    if not is_op(reader, *CONVOLUTIONS, *TRANSPOSED, *LINEARS) or place not in (1, 2):
        return None
    weight = constant(module, reader.args[1])
    if weight is None or weight.ndim < 2:
        return None
    leaf = str(node.target).rpartition(".")[2]
    bounds = {"in_proj_weight": math.sqrt(6 / sum(weight.shape)), "in_proj_bias": 0.0}
    return partial(_uniform, bounds.get(leaf, 1 / math.sqrt(max(1, weight[0].numel()))))
