"""Every loss of the distill stage, alone and beside plain KL, against labels only and plain KL.

    python -m benchmarks.distill TEACHER --arch FILE.py:factory --data DATA.npz \\
        --student FILE.py:factory [--student FILE.py:factory] [--unlabeled DIR] \\
        [--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --seeds 3 --steps 600] \\
        [--loss kl --loss hint] [--results results.json]

One block a student, one row a loss: top-1 on the validation samples, mean and standard deviation
over the seeds, and how far the mean is from plain KL's in standard errors of the difference. All
rows have the same steps, batches, optimiser and augmentation; a seed sets the student's weights and
the order of samples. A loss that cannot be used on a pair has the stage's reason in its row.

Every finished cell is stored in the file of ``--results``; the same command goes on from there.
What a step costs is not measured here yet.
"""

from __future__ import annotations

import argparse
import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import fx

from benchmarks.cells import Cell, Cells
from benchmarks.jobs import add_model_options, open_job, state_of
from edgekd.data.loader import batches
from edgekd.errors import StageError
from edgekd.graph.program import output_tensors, to_module
from edgekd.loss_settings import LossSettings
from edgekd.progress import Silent
from edgekd.stages import distill
from edgekd.state import CompressionState
from edgekd.training_settings import DistillStage

PLAIN, LABELS = "kl", "labels only"


def main() -> None:
    """Print a block for every student."""
    options = _options()
    cells = Cells(options.results)
    unlabelled = f", unlabelled samples of {options.unlabeled}" if options.unlabeled else ""
    print(
        f"teacher {options.model.name}: {options.steps} steps of {options.batch_size}, learning "
        f"rate {options.learning_rate or 'auto'}, {options.seeds} seed(s){unlabelled}"
    )
    for student in options.student:
        print(f"\n{student.rpartition(':')[2]:44}{'top-1':>20}{'against kl':>14}")
        plain = _over_seeds(options, cells, student, PLAIN)
        for row in _rows(options.loss or _names()):
            try:
                found = _over_seeds(options, cells, student, row)
            except StageError as error:
                print(f"{row:44}{'refused':>20}  {error}", flush=True)
                continue
            print(_line(row, found, plain), flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_model_options(parser)
    parser.add_argument("--student", action="append", required=True)
    parser.add_argument("--unlabeled")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, help="by default the stage's own")
    parser.add_argument("--augment", default="crop-flip")
    parser.add_argument("--loss", action="append", choices=_names(), help="by default all")
    parser.add_argument("--results", type=Path)
    return parser.parse_args()


def _names() -> list[str]:
    """Return the names of all losses that a recipe can ask for."""
    union = get_args(LossSettings)[0]
    return [get_args(kind.model_fields["loss"].annotation)[0] for kind in get_args(union)]


def _rows(losses: list[str]) -> list[str]:
    others = [name for name in losses if name != PLAIN]
    pairs = [row for name in others for row in (name, f"{name} + {PLAIN}")]
    return [LABELS, PLAIN, f"{PLAIN} + labels", *pairs]


def _stage(options: argparse.Namespace, student: str, row: str) -> DistillStage:
    names = [] if row == LABELS else row.split(" + ")
    labels = row == LABELS or "labels" in names
    return DistillStage(
        stage="distill",
        student=student,
        losses=[{"loss": name} for name in names if name != "labels"],  # type: ignore[arg-type]
        label_weight=1.0 if labels else 0.0,
        epochs=10**6,  # max_steps decides
        max_steps=options.steps,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        augment=options.augment,
    )


def _over_seeds(options: argparse.Namespace, cells: Cells, student: str, row: str) -> list[Cell]:
    settings = f"{options.model.name}, {student.rpartition(':')[2]}, {options.unlabeled}, "
    settings += f"{options.steps} x {options.batch_size}, {options.learning_rate or 'auto'}, "
    settings += options.augment
    found = []
    for seed in range(options.seeds):
        label = f"{settings}, seed {seed}: {row}"

        def make(seed: int = seed, label: str = label) -> dict[str, Cell]:
            return {label: _measure(options, seed, student, row)}

        found.append(cells.get(label, make))
    return found


def _measure(options: argparse.Namespace, seed: int, student: str, row: str) -> Cell:
    more: dict[str, Any] = {"student": student, "unlabeled": options.unlabeled}
    job = open_job(options, seed, **more)
    assert job.student is not None
    given = state_of(job)
    state = replace(given, original=given.model, student=to_module(job.student.program))
    stage = _stage(options, student, row)
    distill.requires(state, stage)
    return {"top-1": _accuracy(state, distill.run(state, stage, Silent()).model)}


@torch.no_grad()
def _accuracy(state: CompressionState, model: fx.GraphModule) -> float:
    right = count = 0
    for inputs, targets in batches(state.data, state.data.validation, state.spec, 250):
        assert targets is not None
        right += int((output_tensors(model(*inputs))[0].argmax(1) == targets).sum())
        count += len(targets)
    return right / count


def _line(row: str, found: list[Cell], plain: list[Cell]) -> str:
    values, base = ([100 * cell["top-1"] for cell in cells] for cells in (found, plain))
    spread = f" +- {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    text = f"{statistics.mean(values):.2f}{spread}"
    apart = ""
    if len(values) > 1 and row != PLAIN:
        error = math.sqrt((statistics.variance(values) + statistics.variance(base)) / len(values))
        gap = statistics.mean(values) - statistics.mean(base)
        apart = f"{gap / error:+.1f} s.e." if error > 0 else f"{gap:+.2f} points"
    return f"{row:44}{text:>20}{apart:>14}"


if __name__ == "__main__":
    main()
