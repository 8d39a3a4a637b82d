"""A prune stage that is stopped goes on behind its last choice, to the same weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from marks import with_slow
from networks import IMAGE, ResNet, build, conv_bn
from states import make_state, original_ms
from torch import Tensor, nn

from edgekd.cache import StepCache
from edgekd.progress import Silent
from edgekd.recipe import PruneStage
from edgekd.stages import checkpoint, prune, prune_ruler, prune_step
from edgekd.state import CompressionState
from edgekd.training_settings import Recovery

OPTIONS = PruneStage(
    stage="prune",
    macs=0.5,
    steps=2,
    multiple=1,
    samples=32,
    distill=Recovery(epochs=2, batch_size=32, learning_rate=1e-2),
)


class StoppedError(Exception):
    pass


class Recorder(Silent):
    """Keeps the notes, and may stop the work behind some samples of one training."""

    def __init__(self, training: int = 0, after: int = 2) -> None:
        self.notes: list[str] = []
        self.started: list[str] = []
        self._title, self._left = f"prune: distillation {training} of 2", after

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[Any]:
        self.started.append(description)

        def advance(count: int) -> None:
            if description == self._title:
                self._left -= 1
                if self._left <= 0:
                    raise StoppedError

        yield advance

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> CompressionState:
    return make_state(build(ResNet), IMAGE, tmp_path_factory.mktemp("state"))


@pytest.fixture
def state(
    plain: CompressionState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> CompressionState:
    monkeypatch.setattr(checkpoint, "INTERVAL", 0.0)
    return replace(plain, cache=StepCache(tmp_path / "cache"), key="a-step")


@pytest.fixture(scope="module")
def whole(plain: CompressionState, tmp_path_factory: pytest.TempPathFactory) -> CompressionState:
    cache = StepCache(tmp_path_factory.mktemp("whole"))
    return prune.run(replace(plain, cache=cache, key="a-step"), OPTIONS, Silent())


def stop(state: CompressionState, training: int, options: PruneStage = OPTIONS) -> None:
    with pytest.raises(StoppedError):
        prune.run(state, options, Recorder(training))


def check_same(found: CompressionState, expected: CompressionState) -> None:
    first, second = (after.model.state_dict() for after in (found, expected))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert found.details["prune"] == expected.details["prune"]


def never(*_: Any, **__: Any) -> Any:
    pytest.fail("it was computed again")


@pytest.mark.parametrize("training", with_slow([1, 2], [1]))
def test_the_rest_is_done_to_the_last_bit(
    state: CompressionState,
    whole: CompressionState,
    training: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stop(state, training)
    if training == 2:  # both choices are made
        monkeypatch.setattr(prune_step, "rank_units", never)
        monkeypatch.setattr(prune_step, "make_judge", never)
    progress = Recorder()
    check_same(prune.run(state, OPTIONS, progress), whole)
    assert (
        f"prune: goes on behind the choice of step {training} of an earlier run" in progress.notes
    )
    title = f"prune: distillation {training} of 2"
    assert f"{title}: goes on where an earlier run stopped" in progress.notes
    assert ("prune: distillation 1 of 2" in progress.started) == (training == 1)
    assert ("prune: step 2 of 2: damage" in progress.started) == (training == 1)


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("prune-2.pt2", flipped),
        pytest.param("prune-2.pt2", None, marks=pytest.mark.slow),
        pytest.param("prune-2.json", flipped, marks=pytest.mark.slow),
        pytest.param("prune-2.json", lambda content: content[:-9], marks=pytest.mark.slow),
        pytest.param("prune-2.json", None, marks=pytest.mark.slow),
    ],
)
def test_a_damaged_file_is_left_alone_with_a_note(
    state: CompressionState, whole: CompressionState, name: str, change: Any
) -> None:
    stop(state, 2)
    assert state.cache is not None and state.key is not None
    path = state.cache.partial(state.key) / name
    assert sorted(p.name for p in path.parent.glob("prune-?.*"))[2:] == [
        "prune-2.json",
        "prune-2.pt2",
    ]
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_bytes()))
    progress = Recorder()
    check_same(prune.run(state, OPTIONS, progress), whole)
    damaged = "prune: what an earlier run chose in step 2 is damaged; unused"
    assert (damaged in progress.notes) == (change is not None or name.endswith("pt2"))
    assert "prune: goes on behind the choice of step 1 of an earlier run" in progress.notes


@pytest.mark.slow
def test_without_a_key_nothing_is_written(state: CompressionState, whole: CompressionState) -> None:
    assert state.cache is not None
    after = prune.run(replace(state, key=None), OPTIONS, Silent())
    assert not list(state.cache.root.glob("*.partial"))
    groups = [after.details["prune"]["groups"], whole.details["prune"]["groups"]]
    assert groups[0] == groups[1]


def test_a_folder_that_cannot_be_written_costs_the_files_only(
    state: CompressionState, whole: CompressionState
) -> None:
    assert state.cache is not None
    state.cache.root.mkdir()
    (state.cache.root / "a-step.partial").write_text("in the way")
    progress = Recorder()
    after = prune.run(state, OPTIONS, progress)
    assert any(note.startswith("prune: step 1 could not be stored (") for note in progress.notes)
    assert after.details["prune"]["groups"] == whole.details["prune"]["groups"]


class Wide(nn.Module):
    """Convolutions that take long enough to be timed."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = conv_bn(3, 48), conv_bn(48, 48), nn.Linear(48, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.b(torch.relu(self.a(x)))).mean((2, 3)))


@pytest.mark.slow
def test_latency_is_not_measured_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prune_ruler, "PROCESSES", 1)
    monkeypatch.setattr(prune_ruler, "ROUNDS", 30)
    state = make_state(build(Wide), (3, 16, 16), tmp_path)
    state = replace(state, cache=StepCache(tmp_path / "cache"), key="a-step")
    changed = {
        "macs": None,
        "latency_ms": original_ms(state) / 2,
        "multiple": 16,
        "across": "uniform",
    }
    options = OPTIONS.model_copy(update=changed)
    stop(state, 2, options)
    monkeypatch.setattr(prune_ruler, "measure", never)
    progress = Recorder()
    told = prune.run(state, options, progress).details["prune"]
    assert told["source"] == "measured" and told["wanted_gain"] > 1
    assert max(a["measured"] for a in told["steps"][-1]["attempts"]) >= told["wanted_gain"]
    assert "Timing layers" not in progress.started
