"""Which samples a distill stage trains on, how often and how; and what of a teacher is stored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from marks import with_slow
from states import make_state
from torch import Tensor, nn

from edgekd.cache import StepCache
from edgekd.data.parts import unlabelled_places, with_train
from edgekd.data.samples import NO_LABEL, ArraySamples
from edgekd.errors import StageError
from edgekd.graph.program import clone, digest
from edgekd.progress import Silent
from edgekd.settings import SettingsError, validate
from edgekd.stages import adaptive_samples, checkpoint, distill, training_samples
from edgekd.stages.passes import Passes
from edgekd.state import CompressionState
from edgekd.training_settings import DistillStage

CPU = torch.device("cpu")
IMAGE = (3, 8, 8)
TRAINING = {"epochs": 3, "batch_size": 32, "learning_rate": 2e-2, "augment": "crop-flip"}


class Tiny(nn.Module):
    """A classifier of 8 x 8 images with one map in between and no batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, 2, 1)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.body(torch.relu(self.stem(x)))).mean((2, 3)))


class Notes(Silent):
    """Keeps the notes, and ends the work behind a number of steps."""

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
    torch.manual_seed(0)
    made = make_state(Tiny(), IMAGE, tmp_path_factory.mktemp("state"), classes=5)
    inputs, _ = made.data.train.batch(np.arange(len(made.data.train)))
    targets = np.random.default_rng(1).integers(0, 5, len(made.data.train))
    targets[::3] = NO_LABEL
    data = replace(made.data, train=ArraySamples(inputs, targets))
    model = clone(made.model)
    for parameter in model.parameters():
        parameter.data.mul_(0.3)
    return replace(made, data=data, model=model, original=made.model)


def stage(**given: Any) -> DistillStage:
    return DistillStage(stage="distill", **{**TRAINING, **given})


def run(state: CompressionState, progress: Any = None, **given: Any) -> CompressionState:
    distill.requires(state, stage(**given))
    return distill.run(state, stage(**given), progress or Notes())


def trained_on(state: CompressionState, **given: Any) -> CompressionState:
    """Return the state with the samples that the stage chooses."""
    asked = []
    chosen = training_samples.chosen_samples

    def keep(*args: Any, **more: Any) -> CompressionState:
        asked.append(chosen(*args, **more))
        return asked[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distill, "chosen_samples", keep)
        after = run(state, max_steps=1, **given)
    assert after.data is state.data, "a later stage has all samples again"
    assert after.details["student"]["training_samples"] == len(asked[0].data.train)
    return asked[0]


@pytest.mark.parametrize(("samples", "none"), [("labelled", 0.0), ("unlabelled", 1.0)])
def test_samples_with_or_without_a_label(
    state: CompressionState, samples: str, none: float
) -> None:
    train = trained_on(state, samples=samples).data.train
    assert len(unlabelled_places(train)) == none * len(train) < len(state.data.train)


@pytest.mark.parametrize("keep", with_slow(["random", "hard"], ["random"]))
def test_a_fraction_is_kept(state: CompressionState, keep: str) -> None:
    chosen = trained_on(state, keep_fraction=0.5, keep=keep).data
    assert len(chosen.train) == round(0.5 * len(state.data.train))
    assert chosen.fingerprints["train"]["sha256"] != state.data.fingerprints["train"]["sha256"]


def test_all_samples_are_the_data_as_it_is(state: CompressionState) -> None:
    assert trained_on(state).data is state.data
    assert with_train(state.data, np.arange(len(state.data.train))) is state.data


def test_the_surest_samples_without_a_label_are_chosen(state: CompressionState) -> None:
    before = len(unlabelled_places(state.data.train))
    selection = {"per_class": 2, "least_confidence": 0.0}
    train = trained_on(state, select_unlabelled=selection).data.train
    labelled = len(state.data.train) - before
    assert labelled < len(train) <= labelled + 2 * 5 < labelled + before

    nothing = {"per_class": 2, "least_confidence": 1.0}
    assert len(trained_on(state, select_unlabelled=nothing).data.train) == labelled
    with pytest.raises(StageError, match="no training sample is left; change 'samples'"):
        run(state, samples="unlabelled", select_unlabelled=nothing)


def test_what_the_data_does_not_have_is_refused_before_any_work(state: CompressionState) -> None:
    places = np.setdiff1d(np.arange(len(state.data.train)), unlabelled_places(state.data.train))
    labelled = replace(state, data=with_train(state.data, places))
    with pytest.raises(StageError, match="'samples: unlabelled', and the data has none; --unlab"):
        distill.requires(labelled, stage(samples="unlabelled"))
    numbers = replace(state, classification=False)
    with pytest.raises(StageError, match="'keep: hard' goes by class probabilities"):
        distill.requires(numbers, stage(keep="hard", keep_fraction=0.5))
    with pytest.raises(StageError, match="'select_unlabelled' goes by class probabilities"):
        distill.requires(numbers, stage(select_unlabelled={"per_class": 3}))


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"stored_top_k": 2}, "'stored_top_k' without 'stored_views'"),
        ({"stored_views": 2, "hard_augment": True}, "leave one out"),
        (
            {"samples": "labelled", "select_unlabelled": {"per_class": 1}},
            "with 'samples: labelled'",
        ),
        ({"keep_fraction": 0.0}, "keep_fraction"),
    ],
)
def test_what_contradicts_itself_is_no_recipe(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        validate({"stage": "distill", **given}, DistillStage)


@pytest.mark.parametrize(("fraction", "expected"), [(1.0, (0.5, 0.5)), (0.1, (0.95, 0.05))])
def test_the_teachers_weight_is_tied_to_the_data(
    fraction: float, expected: tuple[float, float]
) -> None:
    tied = training_samples.weights_of(stage(label_weight="tied", keep_fraction=fraction))
    assert tied == pytest.approx(expected)
    assert training_samples.weights_of(stage(label_weight=0.3)) == (1.0, 0.3)


@pytest.mark.parametrize("by", with_slow(["class", "domain"], ["domain"]))
def test_what_the_student_lags_on_is_drawn_more_often(state: CompressionState, by: str) -> None:
    looks: list[adaptive_samples.Adapted] = []
    make = adaptive_samples.adapting

    def spied(*args: Any) -> Any:
        look = make(*args)
        assert look is not None

        def kept() -> adaptive_samples.Adapted:
            looks.append(look())
            return looks[-1]

        return kept

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distill, "adapting", spied)
        run(state, gap_sampling={"by": by, "smoothing": 0.0})
    assert len(looks) == 2, "before each pass but the first"
    for look in looks:
        assert look.strength is None and look.weights is not None
        assert look.weights.sum() == pytest.approx(1.0)
        assert len(np.unique(look.weights)) <= (5 if by == "class" else 2)


def test_drawn_batches_follow_the_weights(state: CompressionState) -> None:
    weights = np.zeros(len(state.data.train))
    weights[[3, 5]] = 0.5
    passes = Passes(
        state, stage(augment="none"), None, CPU, adapt=lambda: adaptive_samples.Adapted(weights)
    )
    first = torch.cat([inputs[0] for inputs, _ in passes()])
    second = torch.cat([inputs[0] for inputs, _ in passes()])
    assert len(torch.unique(first, dim=0)) > 2, "nothing is known before the first pass"
    assert len(second) == len(state.data.train)
    assert len(torch.unique(second, dim=0)) == 2


def test_images_are_blanked_where_student_and_teacher_disagree(state: CompressionState) -> None:
    strength = torch.zeros(len(state.data.train))
    strength[4] = 1.0
    passes = Passes(
        state,
        stage(augment="none", batch_size=200),
        None,
        CPU,
        adapt=lambda: adaptive_samples.Adapted(strength=strength),
    )
    next(iter(passes()))
    ((images, *_), _) = next(iter(passes()))
    blanked = (images == 0).all(1).flatten(1).sum(1)
    assert (blanked > 0).sum() == 1 and 0 < blanked.max() <= 16


@pytest.mark.parametrize("at", [8])
def test_an_interrupted_adaptive_training_ends_with_the_same_weights(
    state: CompressionState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    monkeypatch.setattr(checkpoint, "INTERVAL", 0.0)
    given = replace(state, cache=StepCache(tmp_path / "cache"), key="a-step")
    options = {"gap_sampling": {}, "hard_augment": True, "losses": [{"loss": "kl"}]}
    whole = run(state, **options)
    with pytest.raises(InterruptedError):
        run(given, Notes(at), **options)
    assert digest(run(given, **options).model) == digest(whole.model)


class TestStoredViews:
    options: ClassVar[dict[str, Any]] = {"stored_views": 2}

    def test_a_stored_teacher_teaches_what_a_live_one_does(
        self, state: CompressionState, tmp_path: Path
    ) -> None:
        cached = replace(state, cache=StepCache(tmp_path / "cache"))
        # A full number of batches: in a smaller one a kernel may add in another order.
        count = len(state.data.train) // 32 * 32
        live, *stored = (
            run(replace(s, data=with_train(s.data, np.arange(count))), **self.options)
            for s in (state, cached, cached)
        )
        assert [s.details["teacher_cache"] for s in (live, *stored)] == [
            "unused",
            "computed",
            "reused",
        ]
        assert stored[0].details["teacher_cache_bytes"] == 2 * count * 5 * 4
        for found in stored:
            assert found.details["train_loss"] == pytest.approx(
                live.details["train_loss"], rel=1e-5
            )

    def test_versions_take_turns(self, state: CompressionState) -> None:
        def drawn(passes: Passes) -> Tensor:
            return torch.cat([inputs[0] for inputs, _ in passes()]).flatten(1).sum(1).sort().values

        passes = Passes(state, stage(**self.options), None, CPU, views=2)
        one, two, three = drawn(passes), drawn(passes), drawn(passes)
        assert torch.equal(one, three) and not torch.equal(one, two)

    def test_features_are_stored_too(self, state: CompressionState, tmp_path: Path) -> None:
        layers = [{"student": "body", "teacher": "body"}]
        losses = [{"loss": "kl"}, {"loss": "hint", "weight": 1.0, "layers": layers}]
        live = run(state, losses=losses, **self.options)
        progress = Notes()
        cached = replace(state, cache=StepCache(tmp_path / "cache"))
        stored = run(cached, progress, losses=losses, **self.options)
        assert stored.details["teacher_cache"] == "computed"
        assert stored.details["train_loss"] == pytest.approx(live.details["train_loss"], rel=1e-3)
        assert any("MiB, are stored now" in note for note in progress.notes)

    def test_top_k_is_smaller_and_close(self, state: CompressionState, tmp_path: Path) -> None:
        cached = replace(state, cache=StepCache(tmp_path / "cache"))
        full = run(cached, **self.options)
        few = run(cached, **self.options, stored_top_k=1)
        assert few.details["teacher_cache_bytes"] == 2 * len(state.data.train) * (2 + 4)
        assert few.details["train_loss"][0] != full.details["train_loss"][0]

    def test_too_much_is_refused_and_nothing_stored(
        self, state: CompressionState, tmp_path: Path
    ) -> None:
        cached = replace(state, cache=StepCache(tmp_path / "cache"))
        with pytest.raises(StageError, match="above 'stored_gib'; raise it, store fewer views"):
            run(cached, **self.options, stored_gib=1e-6)
        assert not (tmp_path / "cache").exists()

    def test_without_a_cache_it_is_said(self, state: CompressionState) -> None:
        progress = Notes()
        run(state, progress, **self.options)
        assert any("without a cache" in note for note in progress.notes)

    @pytest.mark.parametrize("at", [7])
    def test_it_can_be_taken_up_again(
        self, state: CompressionState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
    ) -> None:
        monkeypatch.setattr(checkpoint, "INTERVAL", 0.0)
        given = replace(state, cache=StepCache(tmp_path / "cache"), key="a-step")
        whole = run(replace(given, key=None), **self.options)
        with pytest.raises(InterruptedError):
            run(given, Notes(at), **self.options)
        assert digest(run(given, **self.options).model) == digest(whole.model)
