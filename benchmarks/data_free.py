"""What a model loses without data: one recipe on real and on synthesised images, side by side.

    python -m benchmarks.data_free MODEL --arch FILE.py:factory --data DATA.npz \\
        [--input-shape 3,32,32 --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225] \\
        [--recipe int8-data-free --seeds 2]

Both runs are judged on the validation part of the real data, which neither has seen: top-1
accuracy, and agreement of the top class with the original's. With --train-too the real training
samples that were not used for calibration judge as well: more of them, so less noise in the
agreement; it is meant for recipes that do not train. `images` are those that calibrate or train,
`synthesis` the seconds for making them. Synthesised images are kept in --cache.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from benchmarks.jobs import add_model_options, open_job, state_of
from edgekd import stages
from edgekd.data.loader import batches
from edgekd.graph.program import output_tensors, to_module
from edgekd.job import Job
from edgekd.progress import Silent
from edgekd.recipe import DATA_FREE
from edgekd.training import Batch

Judges = Callable[[], Iterator[Batch]]


@dataclass(frozen=True)
class Answers:
    """What a model says for every judging sample, and the right classes."""

    logits: Tensor
    labels: Tensor

    def accuracy(self) -> float:
        """Return the share of right top classes."""
        return float((self.logits.argmax(1) == self.labels).double().mean())

    def agreement(self, other: Answers) -> float:
        """Return the share of samples with the same top class."""
        return float((self.logits.argmax(1) == other.logits.argmax(1)).double().mean())


def main() -> None:
    """Run every seed with and without data, and print one table."""
    options = _options()
    print(f"{'seed':>4} {'':14}{'images':>7}{'top-1':>9}{'drop':>8}{'agree':>9}", end="")
    print(f"{'synthesis':>11}{'stages':>9}")
    for seed in range(options.seeds):
        real, free = _job(options, seed), _job(options, seed, data=None)
        judges = _judges(real, train_too=options.train_too)
        model = to_module(real.loaded.program)
        original = _ask(model, judges)
        _row(seed, "original", 0, original, original, None, None)
        for name, job in (("real data", real), ("synthesised", free)):
            start = time.perf_counter()
            compressed = _compress(job, model)
            seconds = time.perf_counter() - start
            used = sum(len(part) for part in (job.data.calibration, job.data.train))
            trains = any(stage.distill is not None for stage in job.recipe.stages)
            count = used if trains else len(job.data.calibration)
            made = None if job.synthesis is None else float(job.synthesis["seconds"])
            _row(seed, name, count, _ask(compressed, judges), original, made, seconds)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_model_options(parser)
    parser.add_argument("--input-shape", type=_ints, help="for a checkpoint: 3,32,32")
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--recipe", default=DATA_FREE, help="name or YAML file")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--train-too", action="store_true")
    parser.add_argument("--cache", type=Path)
    return parser.parse_args()


def _job(options: argparse.Namespace, seed: int, **more: Any) -> Job:
    return open_job(
        options,
        seed,
        target=options.target,
        recipe=options.recipe,
        input_shape=options.input_shape,
        cache=options.cache,
        **more,
    )


def _judges(job: Job, *, train_too: bool) -> Judges:
    sets = [job.data.validation, job.data.train] if train_too else [job.data.validation]
    return lambda: (b for part in sets for b in batches(job.data, part, job.loaded.spec, 250))


def _compress(job: Job, model: fx.GraphModule) -> fx.GraphModule:
    """Run every stage of the job's recipe as if there were no labels: synthesised data has none."""
    state = replace(state_of(job, classification=False), model=model, teacher=model)
    for stage in job.recipe.stages:
        stages.requires(state, stage)
        state = stages.run(state, stage, Silent())
    return state.model


@torch.no_grad()
def _ask(model: fx.GraphModule, judges: Judges) -> Answers:
    logits, labels = [], []
    for inputs, targets in judges():
        assert targets is not None  # top-1 needs class labels
        logits.append(output_tensors(model(*inputs))[0])
        labels.append(targets)
    return Answers(torch.cat(logits), torch.cat(labels))


def _row(
    seed: int,
    name: str,
    images: int,
    found: Answers,
    original: Answers,
    made: float | None,
    seconds: float | None,
) -> None:
    drop = 100 * (original.accuracy() - found.accuracy())
    times = "".join(
        f"{'-' if t is None else f'{t:.0f} s':>{w}}" for t, w in ((made, 11), (seconds, 9))
    )
    print(
        f"{seed:4} {name:14}{images or '-':>7}{found.accuracy():9.2%}{drop:8.2f}"
        f"{found.agreement(original):9.2%}{times}",
        flush=True,
    )


def _ints(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


if __name__ == "__main__":
    main()
