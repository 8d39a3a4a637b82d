"""What is compared if a recipe names no losses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from networks import IMAGE, Mobile, ResNet, build, conv_bn, trace
from states import make_state
from torch import Tensor, nn, relu

from edgekd.graph.float_form import float_form
from edgekd.progress import Silent
from edgekd.stages import distill
from edgekd.stages.distill_default import losses_of
from edgekd.state import CompressionState
from edgekd.training_settings import DistillStage


class Tokens(nn.Module):
    """Patches of 2 x 2 pixels and one layer for each of them."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.mlp, self.head = nn.Conv2d(3, 8, 2, 2), nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.head((x + relu(self.mlp(x))).mean(1))


class Point(nn.Module):
    """Maps of one place, which say nothing about where a channel is active."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 8, IMAGE[1:]), conv_bn(8, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(relu(self.body(relu(self.stem(x)))).flatten(1))


class Flat(nn.Module):
    """Nothing between blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3 * IMAGE[1] * IMAGE[2], 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1))


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> CompressionState:
    return make_state(build(ResNet), IMAGE, tmp_path_factory.mktemp("state"), classes=5)


def stage(**given: Any) -> DistillStage:
    return DistillStage(stage="distill", **{"student": "net.py:small", **given})


def found(state: CompressionState, network: type[nn.Module], **given: Any) -> list[str]:
    module, _ = trace(build(network), state.example[0])
    student = float_form(module, state.example)
    teacher = float_form(state.model, state.example)
    return [entry.loss for entry in losses_of(state, stage(**given), student, teacher)]


def test_maps_are_compared_too(state: CompressionState) -> None:
    assert found(state, Mobile) == ["kl", "channel-wise"]
    assert "features if their kinds fit" in distill.describe(stage())


@pytest.mark.parametrize(
    "given",
    [
        {"student_weights": "own.pt"},
        {"student": None},
        {"original_weight": 0.0, "teachers": [{"file": "other.onnx"}]},
    ],
)
def test_that_is_for_a_start_from_nothing_and_a_teacher_that_can_be_opened(
    state: CompressionState, given: dict[str, Any]
) -> None:
    assert found(state, Mobile, **given) == ["kl"]
    assert "features" not in distill.describe(stage(**given))


def test_tokens_learn_how_samples_lie_to_one_another_on_maps(state: CompressionState) -> None:
    assert found(state, Tokens) == ["kl", "relational"]
    assert found(state, Tokens, batch_size=257) == ["kl"]
    module, _ = trace(build(Tokens), state.example[0])
    taught_by_tokens = replace(state, model=module)
    assert found(taught_by_tokens, Tokens) == ["kl"] == found(taught_by_tokens, Mobile)


@pytest.mark.parametrize("network", [Point, Flat])
def test_outputs_alone_where_there_is_nothing_to_compare(
    state: CompressionState, network: type[nn.Module]
) -> None:
    assert found(state, network) == ["kl"]


def test_numbers_are_compared_as_numbers(state: CompressionState) -> None:
    assert found(replace(state, classification=False), Mobile) == ["mse"]


def test_what_the_recipe_names_is_taken(state: CompressionState) -> None:
    assert found(state, Mobile, losses=[{"loss": "ssld"}]) == ["ssld"]
    assert found(state, Mobile, losses=[], label_weight=1.0) == []


def test_the_manifest_has_what_was_compared(state: CompressionState) -> None:
    module, _ = trace(build(Mobile), state.example[0])
    ready = replace(state, original=state.model, student=module)
    after = distill.run(ready, stage(max_steps=1, batch_size=16), Silent())
    said = after.details["student"]
    assert [entry["loss"] for entry in said["losses"]] == ["kl", "channel-wise"]
    assert said["compared"] and said["training_only_parameters"] > 0
