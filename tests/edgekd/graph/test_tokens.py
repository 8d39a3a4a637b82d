from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from networks import build, network, samples, trace
from torch import Tensor, fx, nn

from edgekd.graph.canonical import canonicalize
from edgekd.graph.program import refresh
from edgekd.graph.tensors import shape_of
from edgekd.graph.tokens import flatten_tokens

WIDTH = 8


class TokenWise(nn.Module):
    """Two layers, a norm and a shortcut on ``(N, .., 8)``; what is added has another shape."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = F.gelu(self.first(x)) + x.mean(1, keepdim=True)
        z = self.norm(x + self.second(y))
        return z.mean(1), y


def ranks(graph: fx.GraphModule, target: object) -> set[int]:
    nodes = [node for node in graph.graph.nodes if node.target == target]
    return {len(shape) for node in nodes if (shape := shape_of(node)) is not None}


@pytest.mark.parametrize("shape", [(5, WIDTH), (3, 2, WIDTH)])
def test_layers_work_on_two_axes_and_outputs_stay(shape: tuple[int, ...]) -> None:
    net, x = build(TokenWise), samples(4, *shape)
    graph, _ = trace(net, x)
    assert flatten_tokens(graph) == 2
    graph = refresh(graph, (x[:2],))
    assert ranks(graph, torch.ops.aten.linear.default) == {2}
    assert ranks(graph, torch.ops.aten.layer_norm.default) == {2}
    for batch in (1, 4):
        with torch.no_grad():
            for found, expected in zip(graph(x[:batch]), net(x[:batch]), strict=True):
                assert torch.allclose(found, expected, atol=1e-6)


def test_a_transformer_reshapes_only_where_tokens_meet() -> None:
    net, (x,) = network("transformer")
    graph, _ = trace(net, x)
    canonicalize(graph)
    targets = [node.target for node in graph.graph.nodes]
    # In front, around attention (its heads come from the same reshape), and behind.
    assert targets.count(torch.ops.aten.reshape.default) <= 5


def test_layers_on_two_axes_are_left_alone() -> None:
    net, (x,) = network("mlp")
    graph, _ = trace(net, x)
    before = str(graph.graph)
    assert flatten_tokens(graph) == 0
    assert str(graph.graph) == before
