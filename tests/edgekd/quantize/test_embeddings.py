from __future__ import annotations

import pytest
import torch
from networks import build, quantize
from torch import Tensor, nn

ROWS, WIDTH = 50, 8


class Bag(nn.Module):
    """Words and positions summed; with ``tied`` the words' table is the last layer's weight."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(ROWS, WIDTH), nn.Embedding(6, WIDTH)
        self.hidden = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, ROWS)
        if tied:
            self.head.weight = self.words.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids) + self.positions(torch.arange(6, device=ids.device))
        return self.head(torch.relu(self.hidden(x.mean(1))))


def words(count: int = 16) -> Tensor:
    return torch.randint(0, ROWS, (count, 6), generator=torch.Generator().manual_seed(0))


def test_a_looked_up_table_becomes_codes_with_a_step_a_row() -> None:
    net = build(Bag)
    with torch.no_grad():
        net.words.weight[3] = 0.0
        net.words.weight[4] *= 1000.0  # does not cost the other rows their resolution
    stored = dict(quantize(net, words()).converted.named_buffers())
    codes, steps = stored["words.weight_codes"], stored["words.weight_scale"]
    assert codes.dtype == torch.int8 and steps.shape == (ROWS, 1)
    error = (codes * steps - net.words.weight).abs()
    assert bool((error <= steps / 2 * 1.001).all()) and not codes[3].any()
    assert not any(name.startswith("positions") for name in stored)  # constant indices


def test_a_table_that_is_also_a_layer_is_not_stored_for_the_look_up() -> None:
    found = quantize(build(lambda: Bag(tied=True)), words())
    looked_up = [n for n in found.converted.graph.nodes if "embedding" in str(n.target)]
    assert len(looked_up) == 2
    tables = [found.converted.get_parameter(str(n.args[0].target)) for n in looked_up]
    assert all(table.is_floating_point() for table in tables)


@pytest.mark.parametrize("runtime", ["onnxruntime", "tensorrt"])
def test_only_onnx_runtime_gets_integer_tables(runtime: str) -> None:
    found = quantize(build(Bag), words(), runtime=runtime)
    names = dict(found.converted.named_buffers()) | dict(found.converted.named_parameters())
    assert ("words.weight_codes" in names) == (runtime == "onnxruntime")
