"""Which head goes where, and what it starts from."""

from __future__ import annotations

import pytest
import torch
from networks import Mlp, ResNet, Signal, build, samples, trace
from torch import Tensor, fx, nn

from benchmarks.networks.vit import VisionTransformer
from edgekd.exits.choose_head import make_head
from edgekd.exits.heads import AttentionHead, ConvHead
from edgekd.graph.canonical import make_functional
from edgekd.graph.cuts import block_ends


def program(net: nn.Module, *shape: int) -> fx.GraphModule:
    graph, _ = trace(net, samples(2, *shape))
    make_functional(graph)
    return graph


def vit() -> fx.GraphModule:
    return program(build(lambda: VisionTransformer(64, 2, 2, 32, 4, 32, 5)), 3, 32, 32)


def place(graph: fx.GraphModule, index: int = 1) -> fx.Node:
    return block_ends(graph)[index]


def test_auto_goes_by_shape_and_depth() -> None:
    resnet, tokens = program(build(ResNet), 3, 8, 8), vit()
    made = {
        "early map": make_head(resnet, place(resnet), 0.3, "auto", 5),
        "late map": make_head(resnet, place(resnet), 0.9, "auto", 5),
        "early tokens": make_head(tokens, place(tokens), 0.5, "auto", 5),
        "middle tokens": make_head(tokens, place(tokens), 0.6, "auto", 5),
        "late tokens": make_head(tokens, place(tokens), 0.8, "auto", 5),
    }
    kinds = {name: head.kind for name, head in made.items()}
    assert kinds == {
        "early map": "conv",
        "late map": "conv",
        "early tokens": "local",
        "middle tokens": "attention",
        "late tokens": "attention",
    }
    convs = [
        sum(isinstance(layer, nn.Conv2d) for layer in made[name].modules())
        for name in ("early map", "late map")
    ]
    assert convs == [1, 1]  # a second one would cost more than a tenth of this small network
    strides = [made[name].stride for name in ("middle tokens", "late tokens")]  # type: ignore
    assert strides == [2, 3]


def test_vectors_and_signals_take_a_layer_alone() -> None:
    mlp, signal = program(build(Mlp), 16), program(build(Signal), 2, 16)
    heads = [make_head(g, place(g, 0), 0.3, "auto", c) for g, c in ((mlp, 4), (signal, 3))]
    assert [head.kind for head in heads] == ["linear", "linear"]
    assert heads[1].linear.in_features == 8  # channels, not the 8 points in time behind them


def test_heads_on_maps_end_where_the_model_does_and_start_with_its_classifier() -> None:
    net = build(ResNet)
    assert isinstance(net, ResNet)
    graph = program(net, 3, 8, 8)
    head = make_head(graph, place(graph), 0.3, "auto", 5)
    assert isinstance(head, ConvHead)
    x = samples(2, 4, 8, 8)
    assert head(x)[1].shape == (2, 11, 4, 4)  # the last block's
    assert torch.equal(head.linear.weight, net.head.weight)
    assert torch.equal(head.linear.bias, net.head.bias)
    head.linear.weight.data.zero_()
    assert net.head.weight.abs().sum() > 0  # a copy
    narrow = make_head(graph, place(graph), 0.3, "linear", 5)
    assert narrow.linear.weight.shape == (5, 4)  # which the model's own does not fit


def test_the_attention_of_wide_tokens_has_several_heads() -> None:
    graph = vit()
    head = make_head(graph, place(graph), 0.8, "attention", 5)
    assert isinstance(head, AttentionHead) and head.heads == 2


@pytest.mark.parametrize(
    ("make", "shape", "kind", "message"),
    [
        (ResNet, (3, 8, 8), "attention", "'attention' needs tokens in a square, and .* 4x8x8"),
        (Mlp, (16,), "attention", "'attention' needs tokens in a square, and .* is 32$"),
        (Mlp, (16,), "conv", "'conv' needs a feature map or tokens in a square, and .* is 32$"),
        (Signal, (2, 16), "conv", "'conv' needs a feature map or tokens in a square, and .* 8x8"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(
    make: type[nn.Module], shape: tuple[int, ...], kind: str, message: str
) -> None:
    graph = program(build(make), *shape)
    with pytest.raises(ValueError, match=message):
        make_head(graph, place(graph, 0), 0.3, kind, 5)


class Free(nn.Module):
    """Takes images of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.b(torch.relu(self.a(x)))).mean((2, 3)))


def test_a_tensor_of_free_size_can_have_no_head() -> None:
    free = {0: torch.export.Dim("n"), 2: torch.export.Dim("h", min=8, max=64)}
    exported = torch.export.export(Free().eval(), (samples(2, 3, 16, 16),), dynamic_shapes=(free,))
    graph = exported.module(check_guards=False)
    assert isinstance(graph, fx.GraphModule)
    with pytest.raises(ValueError, match="free size besides the batch"):
        make_head(graph, place(graph, 0), 0.3, "auto", 5)
