"""What a training step of every loss of the distill stage costs, over that of plain KL.

    python -m benchmarks.distill_cost TEACHER --arch FILE.py:factory --data DATA.npz \\
        --student FILE.py:factory [--student FILE.py:factory] [--mean ... --std ...] \\
        [--loss hint] [--batch-size 64 --rounds 15 --mixed-precision] [--results costs.json]

One block a student, one row a loss, alone and beside plain KL, as in ``benchmarks/distill.py``. A
step is: both networks forward, the loss, backward, optimiser. Steps of all rows take turns in
random order on the same batch, and the table has medians of the ratio to plain KL's in the same
round. Memory is the peak of a process that only takes steps of one row, above that of one that
takes none (Linux; the median of five processes).

``--results`` keeps both figures in a file, by student and row, for the table of
``benchmarks/distill.py --costs``.

The last line of a block is what stored answers are worth: a pass over the training samples with
``stored_views``, once stored, over one with a live teacher, both measured in turns.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import nn

from benchmarks.cells import Cells
from benchmarks.distill import PLAIN, cost_label, loss_names, loss_rows, stage_of, start_state
from benchmarks.jobs import Steps, add_model_options, time_in_turns
from edgekd.cache import StepCache
from edgekd.data.loader import batches
from edgekd.data.parts import with_train
from edgekd.errors import StageError
from edgekd.progress import Silent
from edgekd.stages import distill
from edgekd.stages.distill_loss import stage_loss
from edgekd.state import CompressionState
from edgekd.training_settings import DistillStage

PEAKS = 5  # how much memory the allocator takes differs from process to process


def main() -> None:
    """Print a block for every student."""
    options = _options()
    torch.set_num_threads(1)  # a process that is forked below must not have a pool of threads
    costs = Cells(options.results)
    for student in options.student:
        state = start_state(options, student, 0)
        inputs, targets = next(
            iter(batches(state.data, state.data.train, state.spec, options.batch_size))
        )
        steps: Steps = {}
        refused: dict[str, str] = {}
        for row in loss_rows(options.loss or loss_names()):
            try:
                steps[row] = _step(state, _live(options, student, row), inputs, targets)
            except StageError as error:
                refused[row] = str(error)
        for step in steps.values():
            step()  # compiles kernels, which would take seconds and memory in every copy below
        peaks = {
            row: statistics.median(_peak(step) for _ in range(PEAKS))
            for row, step in {"": lambda: None, **steps}.items()
        }
        times = time_in_turns(steps, options.rounds)
        name = student.rpartition(":")[2]
        print(f"\n{name:38}{'time':>8}{'memory':>10}   batch {len(inputs[0])}, 1 thread")
        for row, values in times.items():
            ratio = _median_ratio(values, times[PLAIN])
            memory = (peaks[row] - peaks[""]) / (peaks[PLAIN] - peaks[""])
            print(f"{row:38}{ratio:7.2f}x{memory:9.2f}x", flush=True)
            costs.put({cost_label(student, row): {"time": ratio, "memory": memory}})
        for row, reason in refused.items():
            print(f"{row:38} refused: {reason}")
        _print_stored(options, state, student)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_model_options(parser)
    parser.add_argument("--student", action="append", required=True)
    parser.add_argument("--loss", action="append", choices=loss_names(), help="by default all")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--mixed-precision", action="store_true")
    parser.add_argument("--results", type=Path, help="for benchmarks.distill --costs")
    parser.set_defaults(unlabeled=None, cache=None, learning_rate=None, steps=10**6)
    return parser.parse_args()


def _live(options: argparse.Namespace, student: str, row: str) -> DistillStage:
    return stage_of(options, student, row).model_copy(update={"stored_views": None})


def _step(
    state: CompressionState,
    stage: DistillStage,
    inputs: tuple[torch.Tensor, ...],
    targets: torch.Tensor | None,
) -> Callable[[], None]:
    """Return a step of a stage's training, with an optimiser of its own."""
    pair = distill.pair_of(state, stage)
    loss = stage_loss(
        pair.student, pair.teacher, pair.learning, training=True, mixed=stage.mixed_precision
    )
    beside = nn.ModuleList(t.trained for t, _ in pair.learning.terms if t.trained is not None)
    weights = [p for m in (pair.student, beside) for p in m.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(weights, lr=1e-4, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(inputs, targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def _peak(step: Callable[[], None]) -> int:
    """Return the largest resident set, in bytes, of a copy of this process that takes steps."""
    ctypes.CDLL(None).malloc_trim(0)  # what is free would be taken again without counting
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        Path("/proc/self/clear_refs").write_text("5")
        for _ in range(3):
            step()
        status = Path("/proc/self/status").read_text().splitlines()
        os.write(writing, next(line for line in status if line.startswith("VmHWM")).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return int(text.split()[1]) * 1024


def _print_stored(options: argparse.Namespace, state: CompressionState, student: str) -> None:
    """Print what a pass with stored answers takes, over one with a live teacher."""
    count = min(40 * options.batch_size, len(state.data.train))
    few = replace(state, data=with_train(state.data, np.arange(count)))
    passes = 2  # the first one of a stage also pays for what is done once
    live = _live(options, student, PLAIN).model_copy(update={"epochs": passes})
    with TemporaryDirectory() as folder:
        kept = replace(few, cache=StepCache(Path(folder)))
        stages = {
            "live": (few, live),
            "stored": (kept, live.model_copy(update={"stored_views": 1})),
        }

        def run(name: str) -> Callable[[], None]:
            def once() -> None:
                distill.run(*stages[name], Silent())

            return once

        times = time_in_turns({name: run(name) for name in stages}, 3)
    ratio = _median_ratio(times["stored"], times["live"])
    print(f"stored answers: {ratio:.2f}x of the time of a stage of {passes} passes with a live one")


def _median_ratio(values: list[float], others: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(values, others, strict=True))


if __name__ == "__main__":
    main()
