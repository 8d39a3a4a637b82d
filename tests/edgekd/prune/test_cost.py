"""The cost of what would be left, against the program that is left."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from edgekd.bench.layers import LayerShape
from edgekd.graph.float_form import float_form
from edgekd.graph.program import refresh
from edgekd.prune.analysis import Analysis, analyse
from edgekd.prune.cost import CostModel
from edgekd.prune.groups import Dependencies, Group, Member
from edgekd.prune.layer_times import Source
from edgekd.prune.layers import read_layers, record_shapes
from edgekd.prune.surgery import remove
from tests.networks import NETWORKS, network, trace

NOTHING: Dependencies = Dependencies((), ())


class Linear:
    """Times that any shape has: one microsecond a layer and one for 1000 multiplications."""

    source: Source = "predicted"

    def times(self, shapes: Iterable[LayerShape]) -> Mapping[LayerShape, float]:
        return {shape: 1 + shape.macs / 1000 for shape in shapes}


class Grouped(nn.Module):
    """Convolutions in groups, a transposed one, one over a signal's axis and a flattened map."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(16, 24, (3, 1), padding=(2, 0), dilation=(2, 1), groups=4)
        self.depthwise = nn.Conv2d(24, 48, 3, padding="same", groups=24)
        self.up = nn.ConvTranspose2d(48, 8, 3, stride=2, output_padding=1)
        self.head = nn.Linear(8 * 10 * 10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.grouped(torch.relu(self.stem(x))))
        return self.head(torch.relu(self.up(self.depthwise(x))).flatten(1))


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.a, self.b = nn.Conv2d(8, 16, 3, padding=1), nn.Conv2d(16, 8, 3, padding=1)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.b(torch.relu(self.a(x)))
        return self.head(x.mean((2, 3)))


@dataclass(frozen=True)
class Program:
    module: fx.GraphModule
    analysis: Analysis
    example: tuple[Tensor, ...]

    def costs(self, measured_us: float | None = None) -> CostModel:
        found = self.analysis.dependencies
        return CostModel(self.module, found, self.example, Linear(), measured_us=measured_us)


@cache
def program(name: str) -> Program:
    if name == "grouped":
        net: nn.Module = Grouped().eval()
        example: tuple[Tensor, ...] = (torch.randn(2, 3, 8, 8),)
    else:
        net, example = network(name, batch=2)
    module = float_form(trace(net, *example)[0], example)
    return Program(module, analyse(module, example), example)


@settings(deadline=None, max_examples=8)
@given(st.sampled_from([*NETWORKS, "grouped"]), st.integers(0, 10**6))
def test_knows_the_smaller_program(name: str, seed: int) -> None:
    rng = random.Random(seed)
    whole = program(name)
    gone = {
        group.name: sorted(rng.sample(range(group.size), rng.randrange(group.size)))
        for group in whole.analysis.dependencies.groups
    }
    smaller = remove(whole.module, whole.analysis, gone, whole.example).module
    kept = {
        group.name: group.size - len(gone[group.name])
        for group in whole.analysis.dependencies.groups
    }
    guessed = whole.costs(measured_us=1e4)
    known = CostModel(smaller, NOTHING, whole.example, Linear())
    assert guessed.macs(kept) == known.macs({})
    assert guessed.parameters(kept) == sum(p.numel() for p in smaller.parameters())
    shapes = {name: [size] for name, size in kept.items()}
    assert guessed.shapes(shapes) == known.shapes({})
    assert whole.costs().microseconds(kept) == pytest.approx(known.microseconds({}))


def test_reads_the_arguments_of_layers() -> None:
    whole = program("grouped")
    layers = read_layers(whole.module, (), record_shapes(whole.module, whole.example))
    found = {layer.name: layer.shape for layer in layers}
    assert found["grouped"] == LayerShape(
        "conv", 16, 24, (4, 4), (3, 1), (1, 1), (2, 0), (2, 1), groups=4
    )
    assert found["depthwise"] == LayerShape(
        "conv", 24, 48, (4, 4), (3, 3), (1, 1), (1, 1), (1, 1), groups=24
    )
    assert found["up"] == LayerShape(
        "conv_transpose", 48, 8, (4, 4), (3, 3), (2, 2), (0, 0), (1, 1), (1, 1)
    )
    assert found["up"].output_size == (10, 10)
    assert found["head"] == LayerShape("linear", 800, 5, (1,))


def test_heads_take_their_products_along() -> None:
    whole = program("transformer")
    group = next(g for g in whole.analysis.dependencies.groups if g.kind == "heads")
    costs = whole.costs()
    products = [layer for layer in costs.layers if layer.shape.op == "matmul"]
    assert len(products) == 2
    for layer in products:
        assert layer.shape.groups == group.size
        assert layer.shape_after({group.name: 1}).groups == group.size - 1


def blocks() -> tuple[fx.GraphModule, Dependencies, tuple[Tensor, ...], frozenset[str]]:
    """Return a program with a group written by hand, and the nodes of its residual branch."""
    example = (torch.randn(2, 3, 8, 8),)
    module = refresh(trace(Blocks().eval(), *example)[0], example)
    units = tuple((index,) for index in range(16))
    group = Group(
        name="a",
        kind="channels",
        size=16,
        rows=1,
        produced=(Member("a.weight", 0, units), Member("a.bias", 0, units)),
        consumed=(Member("b.weight", 1, units),),
    )
    names = [node.name for node in module.graph.nodes]
    branch = names[names.index("conv2d_1") : names.index("add")]
    return module, Dependencies((group,), ()), example, frozenset(branch)


def test_a_dropped_block_costs_nothing() -> None:
    module, dependencies, example, branch = blocks()
    costs = CostModel(module, dependencies, example, Linear(), measured_us=5000)
    without = costs.cost({}, branch)
    assert without.parameters == 3 * 8 * 9 + 8 + 8 * 3 + 3
    assert without.macs == 3 * 8 * 9 * 36 + 8 * 3
    assert costs.cost({"a": 3}, branch) == without
    half = costs.cost({"a": 8})
    whole = costs.cost({})
    assert without.microseconds < half.microseconds < whole.microseconds
    assert half.macs == without.macs + 2 * 8 * 8 * 9 * 36
    assert whole.source == "predicted"


def test_the_remainder_goes_to_the_other_operations() -> None:
    module, dependencies, example, _ = blocks()
    bare = CostModel(module, dependencies, example, Linear())
    fitted = CostModel(module, dependencies, example, Linear(), measured_us=5000)
    assert fitted.microseconds({}) == pytest.approx(5000)
    # relu over 16 x 6 x 6, the sum and its mean over 8 x 6 x 6: half of a's units are in the relu
    others, relu = 16 * 36 + 8 * 36 + 8, 16 * 36
    left = (5000 - bare.microseconds({})) * (1 - relu / 2 / others)
    assert fitted.microseconds({"a": 8}) == pytest.approx(bare.microseconds({"a": 8}) + left)


def test_layers_slower_than_the_whole_are_scaled() -> None:
    module, dependencies, example, _ = blocks()
    bare = CostModel(module, dependencies, example, Linear())
    fitted = CostModel(module, dependencies, example, Linear(), measured_us=10)
    ratio = 10 / bare.microseconds({})
    assert fitted.microseconds({"a": 4}) == pytest.approx(bare.microseconds({"a": 4}) * ratio)


def test_a_measured_candidate_corrects_what_follows() -> None:
    module, dependencies, example, branch = blocks()
    costs = CostModel(module, dependencies, example, Linear(), measured_us=5000)
    before = costs.microseconds({"a": 4}), costs.microseconds({"a": 12}, branch)
    assert costs.calibrate(1.25 * before[0], {"a": 4}) == pytest.approx(1.25)
    after = costs.microseconds({"a": 4}), costs.microseconds({"a": 12}, branch)
    assert after == pytest.approx([1.25 * time for time in before])


def test_times_are_asked_for_once() -> None:
    asked: list[LayerShape] = []

    class Counting(Linear):
        def times(self, shapes: Iterable[LayerShape]) -> Mapping[LayerShape, float]:
            wanted = list(shapes)
            asked.extend(wanted)
            return super().times(wanted)

    module, dependencies, example, _ = blocks()
    costs = CostModel(module, dependencies, example, Counting())
    for kept in (16, 8, 4, 8, 16):
        costs.microseconds({"a": kept})
    assert len(asked) == len(set(asked))
    assert set(asked) == costs.shapes({"a": [4, 8, 16]})
