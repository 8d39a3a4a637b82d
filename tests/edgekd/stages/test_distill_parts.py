"""A part of a student trained, started anew, or taught by what the network was before."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from networks import IMAGE, build, conv_bn, trace
from states import make_state
from torch import Tensor, nn

from edgekd.errors import StageError
from edgekd.graph.float_form import float_form
from edgekd.graph.parts import head_tensors, part_tensors, stored_tensors
from edgekd.progress import Silent
from edgekd.stages import distill
from edgekd.stages.fade import Fade
from edgekd.state import CompressionState
from edgekd.training_settings import DistillStage

TRAINING = {"epochs": 1, "batch_size": 16, "learning_rate": 2e-2, "augment": "none"}
REPEATED = {"loss": "repeated", "label_share": "auto"}


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = conv_bn(3, 4), conv_bn(4, 6, stride=2)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.body(torch.relu(self.stem(x))))
        return self.head(x.mean((2, 3)))


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> CompressionState:
    made = make_state(build(Small), IMAGE, tmp_path_factory.mktemp("state"), classes=5)
    other, _ = trace(build(Small, 1), made.example[0])
    # What an earlier stage made of the original.
    return replace(made, original=made.model, model=float_form(other, made.example))


def stage(**given: Any) -> DistillStage:
    return DistillStage(stage="distill", **{**TRAINING, **given})


def run(state: CompressionState, progress: Silent | None = None, **given: Any) -> CompressionState:
    return distill.run(state, stage(**given), progress or Silent())


def changed(before: CompressionState, after: CompressionState) -> set[str]:
    old, new = before.model.state_dict(), after.model.state_dict()
    return {name for name, tensor in old.items() if not torch.equal(tensor, new[name])}


def test_only_the_named_part_changes_and_statistics_elsewhere_stay(state: CompressionState) -> None:
    after = run(state, train_only=["body"], epochs=6, optimizer="adamw")
    assert after.details["distillation_kept"]
    assert changed(state, after) == part_tensors(state.model, ["body"])
    facts = after.details["student"]
    assert 0 < facts["trained_parameters"] < facts["parameters"][1]


def test_a_head_is_drawn_anew_and_learns_from_the_network_before(state: CompressionState) -> None:
    given = {"teacher": "previous", "train_only": "head", "reset": "head", "label_weight": 1.0}
    head = head_tensors(state.model)
    # Trained with no rate to speak of, it is what torch's layer starts from, and worse: undone.
    idle = run(state, **given, learning_rate=1e-12)
    assert idle.details["student"]["judged_by"] == "labels"
    before, after = idle.details["held_out_loss"]
    assert idle.details["distillation_kept"] == (after <= before)
    learnt = run(state, **given, losses=[{"loss": "kl"}], epochs=12, optimizer="adamw")
    assert learnt.details["train_loss"][-1] < learnt.details["train_loss"][0]
    if learnt.details["distillation_kept"]:
        assert changed(state, learnt) == head


def test_the_network_before_teaches_in_place_of_the_original(state: CompressionState) -> None:
    def first_loss(teacher: str) -> float:
        given = {"teacher": teacher, "losses": [{"loss": "mse"}], "max_steps": 1}
        found = run(state, **given, train_only="head").details["train_loss"]
        return float(found[0])

    # Batch norms would make its own answers others; behind them they are the same.
    assert first_loss("previous") == pytest.approx(0, abs=1e-6)
    assert first_loss("original") > 0.1


def test_labels_judge_a_network_that_was_its_own_teacher(state: CompressionState) -> None:
    after = run(state, teacher="previous", losses=[{**REPEATED, "label_share": 0.9}], epochs=4)
    before, last = after.details["held_out_loss"]
    assert before > 1, "cross entropy, not the distance to itself"
    assert after.details["distillation_kept"] == (last <= before)
    assert run(state, losses=[{"loss": "kl"}]).details["student"]["judged_by"] == "teachers"


def test_the_share_of_labels_is_found_and_told(state: CompressionState) -> None:
    progress = Notes()
    after = run(state, progress, teacher="previous", losses=[REPEATED])
    (entry,) = after.details["student"]["losses"]
    assert 0 <= entry["label_share"] <= 1
    (told,) = [note for note in progress.notes if "label_share" in note]
    assert f"label_share {entry['label_share']:.2f}" in told
    found = after.details["student"]["label_share"]
    assert found["used"] == entry["label_share"]
    assert found["used"] == (found["best"] if found["error"] <= 0.25 else 0.6)


def test_losses_fade_and_go_on_where_they_were(state: CompressionState) -> None:
    fade = Fade(4, on=True)
    factors = []
    for step in range(1, 5):
        factors.append(fade())
        fade.after_step(step)
    assert factors == [1.0, 0.75, 0.5, 0.25]
    again = Fade(4, on=True)
    again.load_state_dict(fade.state_dict())
    assert again() == fade() == 0
    assert Fade(4, on=False)() == 1.0
    steps = {"max_steps": 2, "train_only": "head", "learning_rate": 1e-9}
    whole = run(state, losses=[{"loss": "ssld"}], **steps).details["train_loss"][0]
    faded = run(state, losses=[{"loss": "ssld"}], fade=True, **steps).details["train_loss"][0]
    assert faded < 0.9 * whole


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (
            {"train_only": ["bodi"]},
            r"'train_only': 'bodi' fits no module of the student \(did you mean b",
        ),
        ({"reset": ["nowhere.*"]}, "'reset': 'nowhere"),
        ({"train_only": ["head"], "reset": ["body"]}, "'reset' names 'body"),
    ],
)
def test_parts_that_cannot_be(state: CompressionState, given: Any, reason: str) -> None:
    with pytest.raises(StageError, match=f"^distill: {reason}"):
        distill.requires(state, stage(**given))


def test_a_share_needs_labels(state: CompressionState) -> None:
    with pytest.raises(StageError, match=r"'label_share: auto' needs class logits"):
        distill.requires(replace(state, classification=False), stage(losses=[REPEATED]))
    assert stored_tensors(state.model)
