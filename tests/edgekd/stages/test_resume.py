"""A training that is stopped in the middle ends with the very weights of one that was not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import IMAGE, ResNet, build
from states import make_state, programs
from torch import Tensor, fx

from edgekd.cache import StepCache
from edgekd.graph.batchnorm_mode import reestimate_batch_norm
from edgekd.graph.canonical import make_functional, replace_padded_shortcuts
from edgekd.graph.program import clone
from edgekd.graph.taps import matching_taps
from edgekd.progress import Silent
from edgekd.quantize.taps import find_taps
from edgekd.stages import checkpoint
from edgekd.stages.distillation import distill
from edgekd.state import CompressionState
from edgekd.training_settings import Recovery

CPU = torch.device("cpu")
OPTIONS = Recovery(epochs=3, batch_size=16, learning_rate=1e-3, ema=0.9)
STEPS = 3 * 5


class StoppedError(Exception):
    pass


class Recorder(Silent):
    """Keeps the notes, counts the steps, and may stop the process's work behind one of them."""

    def __init__(self, stop: int | None = None) -> None:
        self.notes: list[str] = []
        self.steps, self._stop = 0, stop

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[Any]:
        def advance(count: int) -> None:
            self.steps += count
            if self._stop is not None and self.steps >= self._stop:
                raise StoppedError

        yield advance

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> CompressionState:
    state = make_state(build(ResNet), IMAGE, tmp_path_factory.mktemp("state"))
    assert -(-len(state.data.train) // 16) * 3 == STEPS
    inputs = state.data.inputs(state.data.train, torch.arange(64).numpy())[0]
    reestimate_batch_norm(state.model, [tuple(map(torch.from_numpy, inputs.values()))])
    return state


@pytest.fixture
def state(
    plain: CompressionState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> CompressionState:
    monkeypatch.setattr(checkpoint, "INTERVAL", 0.0)
    return replace(plain, cache=StepCache(tmp_path / "cache"), key="a-step")


def float_programs(state: CompressionState) -> tuple[fx.GraphModule, fx.GraphModule]:
    original = clone(state.model)
    make_functional(original)
    replace_padded_shortcuts(original)
    return original, clone(original)


def run(state: CompressionState, progress: Recorder, pair: Any = None) -> dict[str, Any]:
    """Train with a mask that grows, as a sparse student does; return all that came out."""
    original, student = float_programs(state) if pair is None else map(clone, pair)
    weight = next(p for p in student.parameters() if p.ndim == 4)
    mask = torch.ones_like(weight)

    @torch.no_grad()
    def after_step(step: int) -> None:
        if step in (2, 6, 9):  # the smallest of what is left goes
            left = weight.abs().masked_fill(mask == 0, torch.inf)
            mask.view(-1)[left.argmin()] = 0
        weight.mul_(mask)

    details = distill(
        state,
        original,
        student,
        OPTIONS,
        progress,
        title="test: training",
        taps=(matching_taps if pair is None else find_taps)(student, original),
        after_step=after_step,
        carried={"mask": mask},
        undo=False,
        device=CPU,
    )
    return {**student.state_dict(), "mask": mask, "history": torch.tensor(details["train_loss"])}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def files(state: CompressionState) -> list[Path]:
    assert state.cache is not None and state.key is not None
    return sorted(state.cache.partial(state.key).glob("*"))


@pytest.fixture(scope="module")
def uninterrupted(plain: CompressionState) -> dict[str, Tensor]:
    return run(plain, Recorder())


@pytest.mark.parametrize("stop", [1, 5, 8, 14, 15])
def test_the_rest_is_done_to_the_last_bit(
    state: CompressionState, uninterrupted: dict[str, Tensor], stop: int
) -> None:
    assert (uninterrupted["mask"] == 0).sum() == 3
    with pytest.raises(StoppedError):
        run(state, Recorder(stop))
    progress = Recorder()
    assert same(run(state, progress), uninterrupted)
    done = stop - 1  # it was stopped before the checkpoint of its last step
    assert progress.steps == STEPS and len(files(state)) == 1
    assert any("goes on" in note for note in progress.notes) == (done > 0)


def test_a_training_that_ended_is_not_done_again(
    state: CompressionState, uninterrupted: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(state, Recorder())
    monkeypatch.setattr("torch.optim.AdamW.step", lambda *_: pytest.fail("a step was taken"))
    assert same(run(state, Recorder()), first) and same(first, uninterrupted)


def test_a_quantized_student_goes_on_too(state: CompressionState) -> None:
    pair = programs(state)
    whole = run(replace(state, key=None), Recorder(), pair)
    with pytest.raises(StoppedError):
        run(state, Recorder(7), pair)
    assert same(run(state, Recorder(), pair), whole)


def damaged(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("change", [damaged, lambda content: content[:-9], lambda _: b""])
def test_a_damaged_checkpoint_is_left_alone_with_a_note(
    state: CompressionState, uninterrupted: dict[str, Tensor], change: Any
) -> None:
    with pytest.raises(StoppedError):
        run(state, Recorder(8))
    (file,) = files(state)
    file.write_bytes(change(file.read_bytes()))
    progress = Recorder()
    assert same(run(state, progress), uninterrupted)
    assert any("damaged; training starts again" in note for note in progress.notes)


def test_a_checkpoint_of_other_weights_is_left_alone(state: CompressionState) -> None:
    with pytest.raises(StoppedError):
        run(state, Recorder(8))
    other = clone(state.model)
    with torch.no_grad():
        next(other.parameters()).mul_(0.9)
    progress = Recorder()
    changed = replace(state, model=other, teacher=other)
    assert same(run(changed, progress), run(replace(changed, key=None), Recorder()))
    assert any("started from other weights" in note for note in progress.notes)


def test_without_a_key_nothing_is_written(state: CompressionState) -> None:
    run(replace(state, key=None), Recorder())
    assert not files(state)


KILLED = """
import sys
from pathlib import Path
sys.path[:0] = [{tests!r}]
import torch
torch.set_num_threads(1)
from dataclasses import replace
from test_resume import IMAGE, Recorder, ResNet, StepCache, build, checkpoint, make_state, run
checkpoint.INTERVAL = 0.0
state = make_state(build(ResNet), IMAGE, Path({work!r}))
cache = StepCache(Path({work!r}) / "cache")
state = replace(state, cache=cache, key={key!r})
progress = Recorder()
found = run(state, progress)
torch.save(found, {out!r})
print(*progress.notes)
"""


@pytest.mark.slow
def test_a_killed_process_is_taken_up_by_the_next_one(tmp_path: Path) -> None:
    here = Path(__file__).parent
    roots = [here, here.parents[1], here.parents[2]]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, roots))}

    def start(key: str, out: str) -> subprocess.Popen[str]:
        code = KILLED.format(tests=str(here), work=str(tmp_path), key=key, out=str(tmp_path / out))
        return subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True
        )

    victim = start("killed", "never.pt")
    deadline = time.monotonic() + 120
    while not list((tmp_path / "cache/killed.partial").glob("*.checkpoint")):
        assert victim.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    if (tmp_path / "never.pt").exists():
        pytest.skip("the training ended before it could be killed")
    notes = []
    for key, out in (("killed", "resumed.pt"), ("whole", "whole.pt")):
        process = start(key, out)
        notes.append(process.communicate(timeout=120)[0])
        assert process.returncode == 0
    assert "goes on" in notes[0] and "goes on" not in notes[1]
    resumed, whole = (
        torch.load(tmp_path / f"{n}.pt", weights_only=True) for n in ("resumed", "whole")
    )
    assert same(resumed, whole)
