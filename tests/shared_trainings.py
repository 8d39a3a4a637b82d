"""Trainings to be run in one process, or in several: ``torchrun shared_trainings.py FOLDER``.

Under torchrun every process writes the weights that it ends with, and what became of some calls of
``by_first`` and ``shared``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from networks import build, conv_bn, trace
from states import make_state
from torch import Tensor, nn

from edgekd.cache import StepCache
from edgekd.errors import DataError, StageError
from edgekd.graph.float_form import float_form
from edgekd.graph.program import clone
from edgekd.graph.taps import matching_taps
from edgekd.processes import group
from edgekd.processes.sharing import shared
from edgekd.progress import Progress, Silent
from edgekd.stages import checkpoint
from edgekd.stages import distill as distill_stage
from edgekd.stages.distillation import distill
from edgekd.state import CompressionState
from edgekd.training_settings import DistillStage, Recovery

# Batches of 13, and the last one of a pass has 1 sample, fewer than processes.
TRAINING = {"epochs": 2, "batch_size": 13, "learning_rate": 0.02, "optimizer": "sgd"}


class Tokens(nn.Module):
    """Two blocks with LayerNorm over four tokens of an 8 x 8 image."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, 4, stride=4)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU()) for _ in range(2)
        )
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x.mean(1))


class Images(nn.Module):
    """Two convolutions with batch norms."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = conv_bn(3, 4), conv_bn(4, 6, stride=2)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        return self.head(torch.relu(self.body(x)).mean((2, 3)))


def run_all(folder: Path) -> dict[str, Tensor]:
    """Return what all trainings end with: stored tensors, losses of each pass and held out."""
    torch.use_deterministic_algorithms(not torch.cuda.is_available())
    folder.mkdir(exist_ok=True)
    found: dict[str, Tensor] = {}
    tokens = make_state(build(lambda: Tokens(12)), (3, 8, 8), folder, classes=5)
    student, _ = trace(build(lambda: Tokens(8), seed=1), tokens.example[0])
    tokens = replace(tokens, original=tokens.model, student=student)
    found |= {f"tokens.{k}": v for k, v in _by_many_losses(tokens).items()}
    images = make_state(build(Images), (3, 8, 8), folder, classes=5)
    found |= {f"images.{k}": v for k, v in _by_features(images, folder).items()}
    return found


def decide() -> dict[str, Any]:
    """Return what this process got where the first one decides, and where it fails."""
    found: dict[str, Any] = {"rank": group.rank(), "calls": []}

    def work() -> int:
        found["calls"].append("once")
        torch.rand(3)
        return group.by_first(lambda: 40) + 2

    found["value"] = group.by_first(work)
    for error in (DataError("no such file"), UnportableError(1, 2)):
        try:
            group.by_first(lambda error=error: _fail(error))
        except Exception as caught:
            found[type(error).__name__] = f"{type(caught).__name__}: {caught}"
    parts: list[int] = []

    def run(inputs: tuple[Tensor, ...]) -> list[Tensor]:
        parts.append(len(inputs[0]))
        return [inputs[0], inputs[0].T]

    for size in (5, 1):
        whole = torch.arange(3.0 * size).reshape(size, 3)
        rows, columns = shared(run, (whole,), [0, 1])
        assert torch.equal(rows, whole) and torch.equal(columns, whole.T)
    try:
        shared(lambda inputs: [inputs[0].sum()], (torch.ones(5, 3),))
    except StageError as error:
        found["no rows"] = str(error)
    return {**found, "parts": parts, "random": torch.rand(2)}


class UnportableError(Exception):
    """Pickle cannot make it anew, since it does not know the second argument."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


def _fail(error: Exception) -> None:
    raise error


class Stop(Silent):
    """Ends a training behind a number of steps."""

    def __init__(self, at: int) -> None:
        self._left = at

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[Any]:
        def advance(_count: int) -> None:
            self._left -= 1
            if self._left == 0:
                raise InterruptedError

        yield advance


def _by_many_losses(state: CompressionState) -> dict[str, Tensor]:
    """A loss of each sample, one of the batch, one with a state, and one that draws numbers.

    Before the second pass all look at the student, to blank images that it is wrong on.
    """
    losses = [
        {"loss": "kl"},
        {"loss": "sinkhorn"},
        {"loss": "taid"},
        {"loss": "token-graph", "tokens": 8, "neighbours": 2},
    ]
    options = DistillStage(
        stage="distill",
        student="net.py:tokens",
        losses=losses,
        label_weight=0.5,
        ema=0.8,
        clip_norm=1.0,
        hard_augment=True,
        **TRAINING,
    )
    done = distill_stage.run(state, options, Silent())
    return _weights(done.model.state_dict(), done.details)


def _by_features(state: CompressionState, folder: Path) -> dict[str, Tensor]:
    """Batch norms in training, features, held zeros; interrupted, and gone on with."""
    state = replace(state, cache=StepCache(folder / "cache"), key="one")
    original = float_form(state.model, state.example)
    checkpoint.INTERVAL = 0.0

    def train(progress: Progress) -> dict[str, Tensor]:
        student = clone(original)
        weight = student.get_parameter("body.0.weight")

        @torch.no_grad()
        def hold(_step: int) -> None:
            weight[0] = 0

        hold(0)
        details = distill(
            state,
            original,
            student,
            Recovery(hard_label_weight=0.3, **TRAINING),
            progress,
            title="training",
            taps=matching_taps(student, original),
            after_step=hold,
            undo=False,
        )
        return _weights(student.state_dict(), details)

    with suppress(InterruptedError):
        train(Stop(at=8))
    return train(Silent())


def _weights(stored: Mapping[str, Tensor], details: Mapping[str, Any]) -> dict[str, Tensor]:
    losses = {n: torch.tensor(details[n]) for n in ("train_loss", "held_out_loss")}
    return {**stored, **losses}


if __name__ == "__main__":
    group.connect()
    # Each process makes its model and data for itself, as on several machines.
    here = Path(sys.argv[1]) / str(group.rank())
    torch.save(run_all(here), here / "found.pt")
    torch.save(decide(), here / "decided.pt")
