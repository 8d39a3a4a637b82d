"""The last attention layer of a program, and the refusal of networks without any."""

from __future__ import annotations

import pytest
import torch
from networks import ResNet, Transformer, build, trace
from torch import Tensor, fx, nn

from edgekd.distillation.attention import last_attention
from edgekd.distillation.losses import places_of
from edgekd.graph.float_form import float_form
from edgekd.graph.taps import with_outputs
from edgekd.loss_settings import MiniLm

TOKENS = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(0))


def program(make: type[nn.Module], example: Tensor) -> fx.GraphModule:
    return float_form(trace(build(make), example)[0], (example,))


def test_queries_keys_and_values_are_those_of_the_network() -> None:
    net = build(Transformer)
    graph = float_form(trace(net, TOKENS)[0], (TOKENS,))
    found = last_attention(graph)
    assert found is not None
    assert [place.shape for place in found] == [(2, 6, 8), (2, 8, 6), (2, 6, 8)]
    tapped = with_outputs(graph, [place.node for place in found])(TOKENS)[1:]
    qkv = net.qkv(net.first(TOKENS)).unflatten(-1, (3, 2, -1)).unbind(-3)
    query, key, value = (x.transpose(1, 2) for x in qkv)
    for mine, theirs in zip(tapped, (query, key.transpose(-2, -1), value), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_loss_of_attention_is_refused_for_a_convolutional_network() -> None:
    with_it, without = program(Transformer, TOKENS), program(ResNet, torch.zeros(2, 3, 8, 8))
    assert len(places_of(MiniLm(loss="minilm"), with_it, with_it)) == 3
    with pytest.raises(ValueError, match="it compares attention, and the student has none"):
        places_of(MiniLm(loss="minilm"), without, with_it)
