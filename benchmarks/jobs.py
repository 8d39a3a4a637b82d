"""What several benchmarks share: a model and data from the command line, and timing in turns."""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgekd.graph.program import to_module
from edgekd.job import CompressRequest, Job, prepare
from edgekd.state import CompressionState

Steps = dict[str, Callable[[], None]]


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that ``edgekd compress`` has for these."""
    parser.add_argument("model", type=Path)
    parser.add_argument("--arch")
    parser.add_argument("--data", required=True)
    parser.add_argument("--mean", type=floats)
    parser.add_argument("--std", type=floats)


def floats(text: str) -> tuple[float, ...]:
    """Read numbers with commas between them."""
    return tuple(map(float, text.split(",")))


def open_job(options: argparse.Namespace, seed: int | None = None, **more: Any) -> Job:
    """Return the job of these options; ``more`` are other fields of the request."""
    fields = {
        name: getattr(options, name) for name in ("model", "arch", "data", "mean", "std")
    } | more
    return prepare(CompressRequest(**fields, seed=seed))


def state_of(job: Job, *, classification: bool = True) -> CompressionState:
    """Return what the first stage of a job is given."""
    model = to_module(job.loaded.program)
    return CompressionState(
        model=model,
        teacher=model,
        spec=job.loaded.spec,
        example=job.loaded.example,
        data=job.data,
        profile=job.profile,
        seed=job.recipe.seed,
        classification=classification,
    )


def print_peak_memory(step: Callable[[], None]) -> None:
    """Run a step a few times and print the largest resident set meanwhile, in bytes (Linux).

    The peak of what came before, such as opening the data, is forgotten. ``getrusage`` would not
    do: its peak counts that, and even what the parent process held when it started this one.
    """
    Path("/proc/self/clear_refs").write_text("5")
    for _ in range(5):
        step()
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(int(lines["VmHWM"].split()[0]) * 1024)


def peak_memory(benchmark: str, name: str) -> int:
    """Return what ``python -m benchmarks.BENCHMARK ... --memory-of NAME`` prints."""
    command = [sys.executable, "-m", f"benchmarks.{benchmark}", *sys.argv[1:], "--memory-of", name]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    return int(done.stdout.split()[-1])


def time_in_turns(steps: Steps, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of every step in every round, each round in a random order."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 3):
        for name in random.sample(list(steps), len(steps)):
            start = time.perf_counter()
            steps[name]()
            if number >= 3:  # the first rounds allocate memory and pick kernels
                times[name].append(time.perf_counter() - start)
    return times
