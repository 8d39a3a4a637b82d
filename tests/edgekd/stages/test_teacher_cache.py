from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import IMAGE, Mobile, build
from states import inputs, make_state, programs
from torch import Tensor, nn

from edgekd.cache import StepCache
from edgekd.graph.program import clone
from edgekd.progress import Silent
from edgekd.stages import teacher_cache
from edgekd.stages.distillation import distill
from edgekd.stages.teacher_cache import teacher_outputs
from edgekd.state import CompressionState
from edgekd.training import Schedule
from edgekd.training_settings import Distill

CPU = torch.device("cpu")
UNAUGMENTED: dict[str, Any] = {
    "augment": "none",
    "epochs": 2,
    "batch_size": 16,
    "learning_rate": 1e-3,
}


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.stem(x).relu()
        return self.a(hidden), self.b(hidden)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> CompressionState:
    return make_state(build(Mobile), IMAGE, tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> CompressionState:
    return make_state(build(TwoHeads), (6,), tmp_path_factory.mktemp("rows"))


@pytest.fixture
def cache(tmp_path: Path) -> StepCache:
    return StepCache(tmp_path / "cache")


def status(state: CompressionState, cache: StepCache, **changed: Any) -> tuple[str, int]:
    """Ask for the outputs as ``distill`` does; return what was done and the bytes on disk."""
    options = Distill(**{**UNAUGMENTED, **changed})
    passes = -(-len(state.data.train) // options.batch_size)
    schedule = Schedule(options.epochs, passes, options.learning_rate, options.max_steps)
    found = teacher_outputs(
        replace(state, cache=cache),
        state.teacher,
        options,
        schedule,
        Silent(),
        device=CPU,
        title="t",
        features=options.feature_weight > 0,
    )
    return ("unused", 0) if found is None else (found.status, found.size)


@pytest.mark.parametrize(
    ("name", "batch_size", "off"),
    [
        # On some processors a product adds in another order for another row of the batch.
        ("images", 24, 1e-5),
        ("rows", 24, 1e-5),
        ("rows", 16, 1e-3),  # the last batch is smaller, and there everywhere
    ],
)
def test_stored_outputs_train_the_very_same_student(
    name: str, batch_size: int, off: float, cache: StepCache, request: pytest.FixtureRequest
) -> None:
    state = request.getfixturevalue(name)
    assert (len(state.data.train) % batch_size == 0) == (batch_size == 24)
    original, student = programs(state)
    options = Distill(**{**UNAUGMENTED, "batch_size": batch_size})
    found = []
    for used in (None, cache, cache):
        trained, given = clone(student), replace(state, cache=used)
        details = distill(given, original, trained, options, Silent(), title="t", device=CPU)
        found.append((details, trained.state_dict()))
    (live, weights), *others = found
    assert live["teacher_cache"] == "unused" and live["distillation_kept"]
    assert [details["teacher_cache"] for details, _ in others] == ["computed", "reused"]
    for details, same in others:
        assert details["train_loss"] == pytest.approx(live["train_loss"], rel=off)
        assert all(torch.allclose(same[key], w, atol=off) for key, w in weights.items())


def test_every_output_of_every_training_sample_is_stored(
    rows: CompressionState, cache: StepCache
) -> None:
    count = len(rows.data.train)
    assert status(rows, cache) == ("computed", count * (3 + 2) * 4)
    (folder,) = cache.root.iterdir()
    with torch.no_grad():
        expected = rows.teacher(inputs(rows, count))
    for index, output in enumerate(expected):
        stored = np.load(folder / f"output_{index}.npy")
        assert stored.dtype == np.float32
        assert np.allclose(stored, output.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"augment": "crop"}, "unused"),
        ({"feature_weight": 1.0}, "unused"),
        ({"epochs": 1}, "unused"),
        ({"max_steps": 5}, "unused"),
        ({"max_steps": 6}, "computed"),
    ],
)
def test_only_where_it_saves_a_pass(
    images: CompressionState, cache: StepCache, changed: dict[str, Any], expected: str
) -> None:
    assert -(-len(images.data.train) // 16) == 5
    assert status(images, cache, **changed)[0] == expected


def test_what_is_there_already_is_used_for_a_single_pass_too(
    images: CompressionState, cache: StepCache
) -> None:
    assert status(images, cache)[0] == "computed"
    assert status(images, cache, epochs=1)[0] == "reused"


def test_inputs_that_are_no_images_are_never_augmented(
    rows: CompressionState, cache: StepCache
) -> None:
    assert status(rows, cache, augment="crop-flip")[0] == "computed"


def test_outputs_that_would_fill_the_disk_are_not_stored(
    rows: CompressionState, cache: StepCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher_cache, "MAX_BYTES", len(rows.data.train) * 20 - 1)
    assert status(rows, cache) == ("unused", 0)
    assert not cache.root.exists()


def other_weights(state: CompressionState) -> CompressionState:
    model = clone(state.model)
    with torch.no_grad():
        next(model.parameters()).mul_(1.001)
    return replace(state, model=model, teacher=model)


def other_data(state: CompressionState) -> CompressionState:
    prints = {**state.data.fingerprints, "train": {**state.data.fingerprints["train"]}}
    prints["train"]["sha256"] = "0" * 64
    return replace(state, data=replace(state.data, fingerprints=prints))


@pytest.mark.parametrize("change", [other_weights, other_data])
def test_another_teacher_or_other_data_is_not_taken_for_this_one(
    rows: CompressionState,
    cache: StepCache,
    change: Callable[[CompressionState], CompressionState],
) -> None:
    assert status(rows, cache)[0] == "computed"
    assert status(change(rows), cache)[0] == "computed"
    assert status(change(rows), cache)[0] == status(rows, cache)[0] == "reused"


class Killed(BaseException):
    pass


def test_a_run_killed_while_writing_leaves_nothing_that_is_taken_for_whole(
    rows: CompressionState, cache: StepCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, calls = teacher_cache._Store._answer, []

    def killed_at_the_third_batch(*args: Any) -> Any:
        calls.append(1)
        if len(calls) > 3:
            raise Killed
        return answer(*args)

    with monkeypatch.context() as patch:
        patch.setattr(teacher_cache._Store, "_answer", killed_at_the_third_batch)
        patch.setattr("edgekd.cache.shutil.rmtree", lambda *_, **__: None)  # nobody tidies up
        with pytest.raises(Killed):
            status(rows, cache)
    (left,) = cache.root.iterdir()
    assert left.name.startswith(".") and (left / "output_0.npy").stat().st_size > 0
    assert status(rows, cache)[0] == "computed"


def test_a_full_disk_is_no_reason_to_stop(
    rows: CompressionState, cache: StepCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(teacher_cache, "_write", full)
        assert status(rows, cache) == ("unused", 0)
    assert list(cache.root.iterdir()) == []
