import torch
from networks import build, network, trace
from torch import Tensor, nn

from edgekd.graph.canonical import replace_padded_shortcuts
from edgekd.graph.program import refresh
from edgekd.sparse.layers import Choice, choose_layers
from edgekd.sparse.patterns import NM, Pattern, Unstructured


class Mixed(nn.Module):
    """One layer of every kind that matters."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(8, 12, 1, groups=2)
        self.six = nn.Conv2d(12, 6, 1)
        self.odd = nn.Conv2d(6, 8, 1)
        self.table = nn.Embedding(8, 8)
        self.last = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.odd(self.six(self.grouped(self.depthwise(self.first(x)))))
        x = torch.nn.functional.linear(x.mean((2, 3)), self.table.weight)
        return self.last(x + self.table(x.argmax(1)))


def chosen(pattern: Pattern, *, keep_ends: bool) -> Choice:
    graph, _ = trace(build(Mixed), torch.zeros(2, 3, 6, 6))
    return choose_layers(graph, pattern, keep_ends=keep_ends)


def test_every_dense_layer_has_its_reason() -> None:
    choice = chosen(NM(2, 4), keep_ends=True)

    assert [layer.name for layer in choice.layers] == ["grouped", "six"]
    assert choice.dense.keys() == {"first", "depthwise", "odd", "table", "last"}
    assert "no multiple of 4" in choice.dense["odd"]
    assert "depthwise" in choice.dense["depthwise"]
    assert "embedding" in choice.dense["table"]
    assert "keep_ends" in choice.dense["last"]
    assert "no multiple" in choice.dense["first"]  # the lasting reason, not the one to switch off


def test_without_ends_and_pattern_only_the_kind_of_layer_counts() -> None:
    choice = chosen(Unstructured(0.5), keep_ends=False)
    assert [layer.name for layer in choice.layers] == ["first", "grouped", "six", "odd", "last"]


def test_channels_and_work_of_a_layer() -> None:
    choice = chosen(NM(2, 4), keep_ends=True)
    grouped = choice.layers[0]
    assert (grouped.weight, grouped.outputs, grouped.inputs) == ("grouped.weight", 12, 8)
    assert grouped.macs == 12 * 36 * 4
    assert choice.macs == 36 * (8 * 27 + 8 * 9 + 12 * 4 + 6 * 12 + 8 * 6) + 8 * 8 + 8 * 4


def test_what_only_selects_channels_stays_as_it_is() -> None:
    net, example = network("resnet")
    graph, _ = trace(net, *example)
    replace_padded_shortcuts(graph)
    graph = refresh(graph, example)

    choice = choose_layers(graph, NM(2, 4), keep_ends=True)

    assert [why for why in choice.dense.values() if why == "it only selects channels"]
    assert not any("selection" in name for name in choice.weights)
