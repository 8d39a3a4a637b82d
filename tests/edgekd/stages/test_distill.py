"""The distill stage alone: what a student learns, what is refused, what is gone in the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from marks import with_slow
from networks import IMAGE, ResNet, build, conv_bn, trace
from states import make_state
from torch import Tensor, nn

from edgekd.cache import StepCache
from edgekd.distillation.teachers import Panel
from edgekd.errors import StageError
from edgekd.export.onnx import export_onnx
from edgekd.graph.float_form import float_form
from edgekd.graph.program import digest
from edgekd.progress import Silent
from edgekd.stages import checkpoint, distill
from edgekd.state import CompressionState
from edgekd.training_settings import DistillStage

TRAINING = {"epochs": 3, "batch_size": 16, "learning_rate": 2e-2, "augment": "none"}
SUM_OF_LOSSES = [
    {"loss": "kl"},
    {"loss": "taid"},
    {"loss": "dual-head", "hidden": 8},
    {"loss": "squarehead"},
    {"loss": "token-graph", "tokens": 20, "neighbours": 3},
    {"loss": "hierarchical"},
    {"loss": "masked-autoencoder", "width": 8},
    {"loss": "hint", "weight": 1.0, "layers": [{"student": "stem", "teacher": "blocks.1"}]},
    {"loss": "generic", "weight": 0.1},
    {"loss": "subclasses", "subclasses": 1, "weight": 0.1},
]


class Small(nn.Module):
    """Another architecture than the teacher's: two convolutions and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = conv_bn(3, 4), conv_bn(4, 6, stride=2)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.body(torch.relu(self.stem(x))))
        return self.head(x.mean((2, 3)))


class Stop(Silent):
    """Ends the work behind a number of steps, and keeps the notes."""

    def __init__(self, at: int | None = None) -> None:
        self.notes: list[str] = []
        self.steps, self._at = 0, at

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[Any]:
        def advance(count: int) -> None:
            self.steps += count if description == distill.TITLE else 0
            if self._at is not None and self.steps >= self._at:
                raise InterruptedError

        yield advance

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> CompressionState:
    made = make_state(build(ResNet), IMAGE, tmp_path_factory.mktemp("state"), classes=5)
    student, _ = trace(build(Small), made.example[0])
    return replace(made, original=made.model, student=student)


def stage(**given: Any) -> DistillStage:
    return DistillStage(stage="distill", **{"student": "net.py:small", **TRAINING, **given})


def run(state: CompressionState, **given: Any) -> CompressionState:
    distill.requires(state, stage(**given))
    return distill.run(state, stage(**given), Silent())


def exported(state: CompressionState) -> onnx.ModelProto:
    model = export_onnx(state.model, state.example, state.spec, opset=17)
    return onnx.load_from_string(model)


def test_another_architecture_learns_the_originals_answers(state: CompressionState) -> None:
    assert state.student is not None
    before = digest(state.student)
    after = run(state, epochs=8)

    first, last = after.details["held_out_loss"]
    assert last < first
    assert after.details["train_loss"][-1] < after.details["train_loss"][0]
    assert after.details["student"]["parameters"][1] < after.details["student"]["parameters"][0]
    assert digest(state.student) == before, "a stage changes no state"


def test_labels_alone_ask_no_teacher(
    state: CompressionState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "edgekd.stages.distill_loss.Panel.ask", lambda *_: pytest.fail("a teacher was asked")
    )
    after = run(state, losses=[], label_weight=1.0, epochs=6)
    assert after.details["train_loss"][-1] < after.details["train_loss"][0]


@pytest.mark.parametrize("loss", ["label-augmentation", "layered"])
def test_a_network_teaches_itself_by_turned_images(
    state: CompressionState, monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    asked = []
    combine = Panel.combine

    def spied(self: Panel, answers: Any) -> Tensor:
        asked.append(len(answers[0]))
        return combine(self, answers)

    monkeypatch.setattr(Panel, "combine", spied)
    after = run(state, losses=[{"loss": loss}], epochs=6, label_weight=0.0)
    assert after.details["train_loss"][-1] < after.details["train_loss"][0]
    held = len(state.data.calibration)
    assert sum(asked) <= 3 * held + 64, "a teacher only judges"


def test_losses_add_up_with_their_weights(state: CompressionState) -> None:
    def first_loss(**given: Any) -> float:
        found = run(state, epochs=1, max_steps=1, **given).details["train_loss"]
        return float(found[0])

    kl, both = {"loss": "kl"}, [{"loss": "kl", "weight": 2.0}, {"loss": "ssld", "weight": 0.5}]
    labels = first_loss(losses=[], label_weight=1.0)
    parts = 2 * first_loss(losses=[kl]) + 0.5 * first_loss(losses=[{"loss": "ssld"}]) + 3 * labels
    assert first_loss(losses=both, label_weight=3.0) == pytest.approx(parts, rel=1e-5)


def test_nothing_but_the_student_is_exported(state: CompressionState) -> None:
    assert state.student is not None
    trained = run(state, losses=SUM_OF_LOSSES, label_weight=0.1)
    assert trained.details["student"]["training_only_parameters"] > 0
    after = exported(trained)
    untrained = exported(replace(state, model=float_form(state.student, state.example)))

    def shape(model: onnx.ModelProto) -> tuple[Any, ...]:
        tensors = sorted((t.name, tuple(t.dims)) for t in model.graph.initializer)
        return [node.op_type for node in model.graph.node], tensors

    assert shape(after) == shape(untrained)


@pytest.mark.parametrize("at", with_slow([1, 5, 14], [1, 14]))
def test_an_interrupted_training_ends_with_the_same_weights(
    state: CompressionState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    monkeypatch.setattr(checkpoint, "INTERVAL", 0.0)
    given = replace(state, cache=StepCache(tmp_path / "cache"), key="a-step")
    options = stage(losses=SUM_OF_LOSSES, augment="crop-flip", ema=0.9, fade=True, reset="head")
    whole = distill.run(state, options, Silent())
    with pytest.raises(InterruptedError):
        distill.run(given, options, Stop(at))
    progress = Stop()
    rest = distill.run(given, options, progress)

    assert digest(rest.model) == digest(whole.model)
    assert rest.details["train_loss"] == whole.details["train_loss"]
    assert any("goes on" in note for note in progress.notes) == (at > 1)


def test_stored_answers_train_the_same_student(state: CompressionState, tmp_path: Path) -> None:
    cached = replace(state, cache=StepCache(tmp_path / "cache"))
    # Every batch is full: in a smaller one a kernel may add in another order.
    options = {"batch_size": len(state.data.train) // 4, "losses": [{"loss": "kl"}]}
    live, *stored = (run(given, **options) for given in (state, cached, cached))
    assert [s.details["teacher_cache"] for s in stored] == ["computed", "reused"]
    for found in stored:
        assert found.details["train_loss"] == pytest.approx(live.details["train_loss"], rel=1e-5)


def test_compiling_is_for_gpus(state: CompressionState) -> None:
    if torch.cuda.is_available():
        pytest.skip("for a machine without a GPU")
    seen = Stop()
    distill.run(state, stage(epochs=1, max_steps=1, compile=True), seen)
    assert seen.notes == [f"{distill.TITLE}: 'compile' is for CUDA GPUs; not used on this machine"]


def test_the_model_as_it_is_learns_on_where_no_student_is_named(state: CompressionState) -> None:
    after = run(state, student=None, losses=[{"loss": "repeated"}], epochs=1)
    assert after.details["student"]["factory"] is None
    names = {name for name, _ in float_form(state.model, state.example).named_parameters()}
    assert {name for name, _ in after.model.named_parameters()} == names


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"losses": [{"loss": "top-k-kl", "top_k": 5}]}, r"losses\[0\] 'top-k-kl': 'top_k: 5' lea"),
        (
            {"losses": [{"loss": "hint", "layers": [{"student": "stm", "teacher": "stem"}]}]},
            r"losses\[0\] 'hint': 'stm' fits no module of the student",
        ),
        (
            {"losses": [{"loss": "mcmi"}]},
            r"losses\[0\] 'mcmi': it makes a network a better teacher",
        ),
        ({"losses": [{"loss": "kl"}, {"loss": "meal"}]}, r"losses\[1\] 'meal': it averages sever"),
    ],
)
def test_refused_before_any_work(state: CompressionState, given: Any, reason: str) -> None:
    with pytest.raises(StageError, match=f"^distill: {reason}"):
        distill.requires(state, stage(**given))


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"label_weight": 0.5}, "'label_weight' needs class logits with integer labels"),
        ({"teacher_temperature": 2.0}, "'teacher_temperature' is for class logits"),
        ({"losses": [{"loss": "ssld"}]}, r"losses\[0\] 'ssld': it needs class logits"),
    ],
)
def test_classes_are_needed(state: CompressionState, given: Any, reason: str) -> None:
    with pytest.raises(StageError, match=f"^distill: {reason}"):
        distill.requires(replace(state, classification=False), stage(**given))


@pytest.mark.parametrize("losses", [None, [{"loss": "smooth-l1"}, {"loss": "cosine"}]])
def test_numbers_are_learnt_as_numbers(state: CompressionState, losses: Any) -> None:
    after = run(replace(state, classification=False), losses=losses, epochs=6)
    assert after.details["train_loss"][-1] < after.details["train_loss"][0]


def test_the_originals_logits_are_divided_before_anything_else(state: CompressionState) -> None:
    def first_loss(**given: Any) -> float:
        hint = {"loss": "hint", "weight": 1.0}
        found = run(state, losses=[{"loss": "kl", "temperature": 1.0}, hint], max_steps=1, **given)
        assert len(found.details["student"]["compared"]) > 0
        return float(found.details["train_loss"][0])

    # At a high temperature nothing is left to be told apart, and features are as they were.
    warm, flat = first_loss(teacher_temperature=1e6), first_loss(teacher_temperature=1e7)
    assert first_loss() != pytest.approx(warm, rel=1e-3)
    assert warm == pytest.approx(flat, rel=1e-5)


@pytest.mark.parametrize("loss", [{"loss": "generic"}, {"loss": "subclasses", "subclasses": 1}])
def test_losses_with_a_head_or_predictor_beside_the_student_fall(
    state: CompressionState, loss: dict[str, Any]
) -> None:
    after = run(state, losses=[loss], epochs=2)
    assert after.details["train_loss"][-1] < after.details["train_loss"][0]


def test_a_network_that_will_teach_leaves_its_answers(state: CompressionState) -> None:
    after = run(state, student=None, losses=[{"loss": "mcmi"}], epochs=1)
    assert after.details["distillation_kept"]
