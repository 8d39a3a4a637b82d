from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from networks import build, operations, samples, trace
from torch import Tensor, nn

from edgekd.graph.attention import decompose_attention

TOKENS, WIDTH = 5, 8


class Attention(nn.Module):
    """Attention of one input to itself, with or without a mask."""

    def __init__(self, **settings: object) -> None:
        super().__init__()
        self.settings = settings

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return F.scaled_dot_product_attention(x, 2 * x, x - 1, attn_mask=mask, **self.settings)


def compare(net: nn.Module, *inputs: Tensor) -> list[str]:
    """Check that the decomposition keeps the output at several batch sizes."""
    graph, _ = trace(net, *inputs)
    assert decompose_attention(graph) == 1
    for batch in (1, 4):
        given = [x[:batch] for x in inputs]
        with torch.no_grad():
            assert torch.allclose(graph(*given), net(*given), atol=1e-6)
    return operations(graph)


HEADS = (4, 2, TOKENS, WIDTH)


@pytest.mark.parametrize("settings", [{}, {"scale": 0.3}])
def test_without_a_mask(settings: dict[str, object]) -> None:
    found = compare(build(lambda: Attention(**settings)), samples(*HEADS))
    assert found[-5:] == ["transpose", "matmul", "mul", "softmax", "matmul"]


def test_a_mask_of_numbers_is_added() -> None:
    compare(Attention(), samples(*HEADS), samples(4, 1, TOKENS, TOKENS, seed=1))


def test_a_mask_of_booleans_chooses() -> None:
    mask = samples(4, 1, TOKENS, TOKENS, seed=1) > 0
    mask[0, 0, 2] = False  # a query that sees no key gives zeros
    compare(Attention(), samples(*HEADS), mask)


def test_a_causal_mask_is_left_to_the_exporter() -> None:
    graph, _ = trace(Attention(is_causal=True), samples(*HEADS))
    assert decompose_attention(graph) == 0
    assert "scaled_dot_product_attention" in operations(graph)
