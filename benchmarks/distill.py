"""Every loss of the distill stage, alone and beside plain KL, against labels only and plain KL.

    python -m benchmarks.distill TEACHER --arch FILE.py:factory --data DATA.npz \\
        --student FILE.py:factory [--student FILE.py:factory] \\
        [--unlabeled DIR --unlabeled-samples 10000] [--test DIR --test-samples 2000] \\
        [--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --seeds 3 --steps 900] \\
        [--loss kl --loss hint] [--results results.json] [--cache DIR] [--costs costs.json]

One block a student, one row a loss: top-1 on the validation samples, on the images of ``--test`` (a
folder with train/CLASS/ and test/CLASS/) and on all of these, mean and standard deviation over the
seeds; and how far the last is from plain KL's, with the standard error of the difference.
All rows have the same steps, batches and optimiser; a seed sets the student's weights and the order
of samples. Two versions of each sample take turns, so that the teacher's answers can be stored;
where a row has a live teacher or a part of the samples, its name says so. Losses from which the
last layer learns nothing are "alone" with labels. A loss that cannot be used on a pair, or does not
converge, has the stage's reason in its row.

Every finished cell is stored in the file of ``--results``, seed by seed; the same command goes on
from there, with more losses too. What a step of a row takes, in time and memory over plain KL's, is
measured by ``benchmarks/distill_cost.py --results costs.json`` and stands in the last two columns.
"""

from __future__ import annotations

import argparse
import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from benchmarks.cells import Cell, Cells
from benchmarks.jobs import add_model_options, open_job, state_of
from edgekd.cache import StepCache
from edgekd.data.image_folder import read_image_folder
from edgekd.data.loader import batches
from edgekd.data.parts import part, unlabelled_places, with_train
from edgekd.data.samples import ArraySamples, Samples
from edgekd.distillation.losses import PLACES
from edgekd.errors import StageError
from edgekd.graph.program import output_tensors, to_module
from edgekd.loss_settings import LossSettings
from edgekd.progress import Silent
from edgekd.stages import distill
from edgekd.state import CompressionState
from edgekd.training_settings import DistillStage

PLAIN, LABELS, VIEWS = "kl", "labels only", 2
NAMES = 58  # columns
# From these alone the last layer, which no feature is behind, would learn nothing.
WITH_HEAD = {"one-for-all", "label-augmentation", "layered", "hierarchical"}
HEADLESS = {get_args(kind.model_fields["loss"].annotation)[0] for kind in PLACES} - WITH_HEAD
HALF: dict[str, Any] = {"samples": "labelled", "keep_fraction": 0.5, "label_weight": "tied"}
# Rows beyond one loss, alone or beside plain KL, with the stage's other keys.
FURTHER: dict[str, dict[str, Any]] = {
    "hint + kl + labels": {},
    "channel-wise + kl + labels": {},
    "kl, live teacher": {"stored_views": None},
    "kl + labels, half of the labelled samples": HALF,
    "hint + kl + labels, half of the labelled samples": HALF,
    "channel-wise + kl + labels, half of the labelled samples": HALF,
}


def main() -> None:
    """Print a block for every student."""
    options = _options()
    cells, costs = Cells(options.results), Cells(options.costs)
    unlabelled = (
        f", {options.unlabeled_samples} unlabelled samples of {options.unlabeled}"
        if options.unlabeled
        else ""
    )
    print(
        f"teacher {options.model.name}: {options.steps} steps of {options.batch_size} samples, "
        f"learning rate {options.learning_rate or 'auto'}, "
        f"{'mixed precision' if options.mixed_precision else 'float32'}, "
        f"{options.seeds} seed(s){unlabelled}"
    )
    for student in options.student:
        rows = [*loss_rows(options.loss or loss_names()), *FURTHER]
        refused: dict[str, str] = {}
        for seed in range(options.seeds):
            refused |= _fill(options, cells, student, seed, rows)
        _print_table(options, student, rows, refused, cells, costs)


def _print_table(
    options: argparse.Namespace,
    student: str,
    rows: list[str],
    refused: dict[str, str],
    cells: Cells,
    costs: Cells,
) -> None:
    heads = "".join(f"{head:>16}" for head in ("validation", "test", "all"))
    further = f"{'time':>8}{'memory':>8}" if costs.known else ""
    print(f"\n{student.rpartition(':')[2]:{NAMES}}{heads}{'all against kl (in s.e.)':>26}{further}")
    plain = _over_seeds(options, cells, student, PLAIN)
    for row in rows:
        if row in refused:
            print(f"{row:{NAMES}}{'refused':>16}  {refused[row]}")
            continue
        line = _line(row, _over_seeds(options, cells, student, row), plain)
        cost = costs.known.get(cost_label(student, row), {})
        print(line + "".join(f"{ratio:7.2f}x" for ratio in cost.values()))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_model_options(parser)
    parser.add_argument("--student", action="append", required=True)
    parser.add_argument("--unlabeled")
    parser.add_argument("--unlabeled-samples", type=int, default=10000, help="evenly spaced ones")
    parser.add_argument("--test", help="further labelled images to evaluate with")
    parser.add_argument("--test-samples", type=int, default=2000, help="evenly spaced ones")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, help="by default the stage's own")
    parser.add_argument("--mixed-precision", action="store_true")
    parser.add_argument("--loss", action="append", choices=loss_names(), help="by default all")
    parser.add_argument("--results", type=Path)
    parser.add_argument("--cache", type=Path, help="where the teacher's answers are stored")
    parser.add_argument("--costs", type=Path, help="what distill_cost measured")
    return parser.parse_args()


def loss_names() -> list[str]:
    """Return the names of all losses that a recipe can ask for."""
    union = get_args(LossSettings)[0]
    return [get_args(kind.model_fields["loss"].annotation)[0] for kind in get_args(union)]


def loss_rows(losses: list[str]) -> list[str]:
    """Return the rows of losses alone and beside plain KL, behind those that they are held to."""
    others = [name for name in losses if name != PLAIN]
    pairs = [
        row
        for name in others
        for row in (f"{name} + labels" if name in HEADLESS else name, f"{name} + {PLAIN}")
    ]
    return [LABELS, PLAIN, f"{PLAIN} + labels", *pairs]


def stage_of(options: argparse.Namespace, student: str, row: str) -> DistillStage:
    """Return the settings that a row stands for."""
    names = [] if row == LABELS else row.partition(", ")[0].split(" + ")
    labels = row == LABELS or "labels" in names
    settings: dict[str, Any] = {
        "losses": [{"loss": name} for name in names if name != "labels"],
        "label_weight": 1.0 if labels else 0.0,
        "stored_views": VIEWS,
    }
    if row == LABELS:  # samples without labels teach nothing there
        settings |= {"samples": "labelled"}
    return DistillStage(
        stage="distill",
        student=student,
        epochs=10**6,  # max_steps decides
        max_steps=options.steps,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        mixed_precision=options.mixed_precision,
        **(settings | FURTHER.get(row, {})),
    )


def _label(options: argparse.Namespace, student: str, seed: int, row: str) -> str:
    unlabelled = f"{options.unlabeled_samples} unlabelled" if options.unlabeled else "no unlabelled"
    steps = f"{options.steps} x {options.batch_size}"
    rate = options.learning_rate or "auto"
    precision = "mixed" if options.mixed_precision else "float32"
    who = f"{options.model.name}, {student.rpartition(':')[2]}"
    return f"{who}, {unlabelled}, {steps}, {rate}, {precision}, seed {seed}: {row}"


def cost_label(student: str, row: str) -> str:
    """Return the name under which it is kept what a step of a row takes."""
    return f"{student.rpartition(':')[2]}: {row}"


def _fill(
    options: argparse.Namespace, cells: Cells, student: str, seed: int, rows: list[str]
) -> dict[str, str]:
    """Measure what is missing of one seed, its data opened once; return why rows are refused."""
    missing = [row for row in rows if _label(options, student, seed, row) not in cells.known]
    refused: dict[str, str] = {}
    if not missing:
        return refused
    state = start_state(options, student, seed)
    tests = {"validation": state.data.validation}
    if options.test:
        tests["test"] = _test_samples(options, state)
    for row in missing:
        label, stage = _label(options, student, seed, row), stage_of(options, student, row)

        def make(stage: DistillStage = stage, label: str = label) -> dict[str, Cell]:
            trained = distill.run(state, stage, Silent())
            found = {name: _right(trained, samples) for name, samples in tests.items()}
            right = sum(share * len(tests[name]) for name, share in found.items())
            return {label: found | {"all": right / sum(map(len, tests.values()))}}

        try:
            cells.get(label, make)
        except StageError as error:
            refused[row] = str(error)
    return refused


def _over_seeds(options: argparse.Namespace, cells: Cells, student: str, row: str) -> list[Cell]:
    labels = [_label(options, student, seed, row) for seed in range(options.seeds)]
    return [cells.known[label] for label in labels if label in cells.known]


def start_state(options: argparse.Namespace, student: str, seed: int) -> CompressionState:
    """Return what the stage is given: teacher, untrained student, and samples.

    Few calibration samples: what they are for is not measured here.
    """
    more: dict[str, Any] = {"student": student, "unlabeled": options.unlabeled}
    job = open_job(options, seed, **more)
    assert job.student is not None
    given = state_of(job)
    cache = None if options.cache is None else StepCache(options.cache)
    state = replace(
        given, original=given.model, student=to_module(job.student.program), cache=cache
    )
    held = replace(state.data, calibration=part(state.data.calibration, np.arange(64)))
    if options.unlabeled:
        without = unlabelled_places(held.train)
        step = max(1, len(without) // options.unlabeled_samples)
        chosen = without[::step][: options.unlabeled_samples]
        with_labels = np.setdiff1d(np.arange(len(held.train)), without)
        held = with_train(held, np.concatenate([with_labels, chosen]))
    return replace(state, data=held)


def _test_samples(options: argparse.Namespace, state: CompressionState) -> Samples:
    """Return images of a folder with their labels, as the model's own samples are laid out."""
    example, _ = state.data.validation.batch(np.arange(1))
    _, files, _ = read_image_folder(Path(options.test), None)
    assert files is not None, "a folder without test/CLASS/"
    places = np.linspace(0, len(files) - 1, options.test_samples).astype(np.int64)
    decoded, labels = files.batch(places)
    assert labels is not None
    (images,), ((name, own),) = decoded.values(), example.items()
    if own.shape[1] == images.shape[-1]:
        images = images.transpose(0, 3, 1, 2)
    assert images.shape[1:] == own.shape[1:], "images of another size than the data's"
    return ArraySamples({name: images}, labels)


@torch.no_grad()
def _right(state: CompressionState, samples: Samples) -> float:
    right = 0
    for inputs, targets in batches(state.data, samples, state.spec, 250):
        assert targets is not None
        right += int((output_tensors(state.model(*inputs))[0].argmax(1) == targets).sum())
    return right / len(samples)


def _line(row: str, found: list[Cell], plain: list[Cell]) -> str:
    text = "".join(f"{_spread([100 * cell[name] for cell in found]):>16}" for name in found[0])
    values, base = ([100 * cell["all"] for cell in cells] for cells in (found, plain))
    apart = ""
    if len(values) > 1 and row != PLAIN:
        error = math.sqrt((statistics.variance(values) + statistics.variance(base)) / len(values))
        gap = statistics.mean(values) - statistics.mean(base)
        apart = f"{gap:+.2f} +- {error:.2f}" + (f" ({gap / error:+.1f})" if error > 0 else "")
    return f"{row:{NAMES}}{text}{apart:>26}"


def _spread(values: list[float]) -> str:
    spread = f" +- {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


if __name__ == "__main__":
    main()
