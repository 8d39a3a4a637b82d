from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from networks import build, samples, trace
from pruning import prunable
from torch import Tensor, nn

from edgekd.graph.float_form import float_form
from edgekd.prune.analysis import analyse
from edgekd.prune.groups import Group, Locked

MODELS = Path(__file__).parents[4] / "shared" / "models"


def groups(name: str) -> dict[str, Group]:
    return {group.name: group for group in prunable(name)[2].dependencies.groups}


def locked(name: str) -> dict[str, Locked]:
    return {entry.layer: entry for entry in prunable(name)[2].dependencies.locked}


def tensors(members: tuple[object, ...]) -> list[tuple[str, int]]:
    return [(m.tensor, m.axis) for m in members]  # type: ignore[attr-defined]


SIZES = {
    "chain": {"a.0": (8, 1), "b.0": (8, 1), "hidden": (12, 1)},
    "resnet": {
        "stem.0": (4, 1),
        "blocks.0.a.0": (4, 1),
        "blocks.1.a.0": (8, 1),
        "blocks.1.b.0": (8, 1),
        "blocks.2.a.0": (11, 1),
        "blocks.2.b.0": (11, 1),
    },
    "mobile": {"stem.0": (8, 1), "expand.0": (16, 1), "last.0": (16, 1)},
    "squeeze_excite": {"stem.0": (8, 1), "block.body.0": (16, 1), "down": (4, 1)},
    "zero_cat": {"stem.0": (4, 1), "a.0": (6, 1)},
    "grouped": {"stem.0": (4, 3), "a": (3, 6), "b": (3, 4), "last": (6, 1)},
    "one_input": {"stem.0": (8, 1), "first.0": (8, 1)},
    "gates": {"a": (8, 2), "b": (6, 2), "c": (5, 2)},
    "decoder": {"down.0": (6, 1), "low.0": (8, 1), "wide": (5, 4)},
    "signal": {"a.0": (8, 1), "b.0": (8, 1)},
    "transformer": {"qkv": (2, 8), "up": (64, 1)},
    "fused_heads": {"attention": (3, 4), "mlp.0": (20, 1)},
    "class_token": {"qkv": (3, 4)},
    "rotary": {"q": (3, 8), "gate": (16, 1)},
    "windows": {"qkv": (3, 4)},
    "encoder": {
        "layers.0.attention.query": (3, 4),
        "layers.0.up": (20, 1),
        "layers.1.attention.query": (3, 4),
        "layers.1.up": (20, 1),
    },
    "tied": {"a": (8, 1)},
    "unknown": {"a": (8, 1), "c": (7, 1)},
    "grey": {"a.0": (6, 1), "b.0": (5, 1)},
}


@pytest.mark.parametrize("name", SIZES)
def test_groups_have_the_expected_units(name: str) -> None:
    found = {n: (group.size, group.rows) for n, group in groups(name).items()}
    assert found == SIZES[name]
    heads = {n for n, group in groups(name).items() if group.kind == "heads"}
    attention = ("qkv", "attention", "layers.0.attention.query", "layers.1.attention.query", "q")
    assert heads == {n for n in attention if n in SIZES[name]}


def test_a_stage_with_padded_shortcuts_hangs_together() -> None:
    stage = groups("resnet")["blocks.1.b.0"]
    assert ("pad_shortcut.selection", 0) in tensors(stage.produced)
    assert tensors(stage.consumed) == [("blocks.2.a.0.weight", 1), ("pad_1_shortcut.selection", 1)]


def test_flattened_pixels_go_with_their_channel() -> None:
    (reads,) = groups("chain")["b.0"].consumed
    assert (reads.tensor, reads.axis, reads.indices[1]) == ("hidden.weight", 1, (4, 5, 6, 7))


def test_a_head_has_its_queries_keys_and_values_at_once() -> None:
    attention = groups("fused_heads")["attention"]
    weight = attention.produced[0]
    assert weight.tensor == "attention.in_proj_weight"
    assert weight.indices[1] == (*range(4, 8), *range(16, 20), *range(28, 32))
    assert attention.consumed[0].indices[1] == tuple(range(4, 8))


def test_a_shared_tensor_ties_its_layers() -> None:
    only = groups("tied")["a"]
    assert {("b.weight", 0), ("c.weight", 0)} <= set(tensors(only.produced))
    assert {("b.weight", 1), ("c.weight", 1)} <= set(tensors(only.consumed))


def test_needed_layers_are_locked_with_the_reason() -> None:
    found = locked("encoder")
    assert found["layers.0.down"].reason == "a layer norm normalises over all of it"
    assert locked("chain") == {"head": Locked("head", "it is the model's output", None, True)}
    assert all(entry.followed for entry in found.values())


def test_an_unknown_operation_locks_its_layer_and_names_the_line() -> None:
    entry = locked("unknown")["b"]
    assert not entry.followed and "aten.cummax.default" in entry.reason
    assert entry.line is not None
    file, line, code = entry.line.split(":", 2)
    assert Path(file).name == "prunable_networks.py" and line.isdigit()
    assert code.strip() == "x = torch.cummax(self.b(x), -1)[0]"
    assert set(locked("unknown")) == {"b", "head"}


class Computed(nn.Module):
    """A layer whose weight is computed from two parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 3)
        self.scale = nn.Parameter(torch.ones(6, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        x = torch.nn.functional.linear(x, self.b.weight * self.scale, self.b.bias)
        return self.head(torch.relu(x))


def test_a_computed_weight_locks_both_of_its_sides() -> None:
    graph, _ = trace(build(Computed), samples(2, 4))
    found = analyse(float_form(graph, (samples(2, 4),)), (samples(2, 4),)).dependencies
    assert not found.groups
    (a,) = [entry for entry in found.locked if entry.layer == "a"]
    assert "computed, not stored" in a.reason and not a.followed
    assert {entry.layer for entry in found.locked if not entry.followed} == {"a", "b", "scale"}


class Recurrent(nn.Module):
    """A recurrent layer behind one that could be pruned."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.gru = nn.Linear(4, 6), nn.GRU(6, 5, batch_first=True)
        self.hidden, self.head = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.gru(torch.relu(self.up(x)))
        return self.head(torch.relu(self.hidden(x[:, -1])))


def test_a_recurrent_layer_is_named_and_the_rest_goes_on() -> None:
    example = (samples(2, 5, 4),)
    graph, _ = trace(build(Recurrent), *example)
    found = analyse(float_form(graph, example), example).dependencies
    assert [group.name for group in found.groups] == ["hidden"]
    assert {entry.layer for entry in found.locked if not entry.followed} == {"up", "gru"}


def test_the_public_resnet20_has_three_stages_and_nine_blocks() -> None:
    if not (MODELS / "resnet_cifar.py").exists():
        pytest.skip(f"no {MODELS}")
    sys.path.insert(0, str(MODELS))
    try:
        from resnet_cifar import resnet20
    finally:
        sys.path.remove(str(MODELS))
    example = (samples(2, 3, 32, 32),)
    graph, _ = trace(build(resnet20), *example)
    found = analyse(float_form(graph, example), example).dependencies
    assert sorted(group.size for group in found.groups) == [16] * 4 + [32] * 4 + [64] * 4
    assert [entry.layer for entry in found.locked] == ["linear"]
