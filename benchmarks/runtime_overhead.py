"""What edgekd.runtime adds to ONNX Runtime: python -m benchmarks.runtime_overhead BUNDLE

In each fresh process, edgekd.runtime and a bare InferenceSession of the same file with the same
options are called in turn, in random order, each call timed alone. The table gives the median of
the paired ratios of every process; their median is the overhead. A third session, bare as well,
shows how large a difference of nothing looks.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from edgekd.bench.stats import process_log_ratios
from edgekd.bench.worker import random_feed, time_rounds
from edgekd.runtime import Model, load
from edgekd.spec import TensorSpec

NAMES = ("bare", "bare again", "edgekd")

Samples = dict[str, npt.NDArray[np.int64]]


def main() -> None:
    """Run the processes and print the table."""
    options = arguments()
    if options.process is not None:
        print(json.dumps(one_process(options)))
        return
    answers = [run_process(process) for process in range(options.processes)]
    samples = {name: np.array([answer[name] for answer in answers]) for name in NAMES}
    print("process   bare ms   edgekd ms   overhead   bare again")
    rows = zip(*columns(samples), strict=True)
    for i, row in enumerate(rows):
        print(table_row(str(i), *row))
    print(table_row("median", *(float(np.median(column)) for column in columns(samples))))


def columns(samples: Samples) -> tuple[npt.NDArray[np.float64], ...]:
    """Return the table's columns, one value for every process: ms, ms, log ratio, log ratio."""
    bare, again, ours = (samples[name] for name in NAMES)
    return (
        np.median(bare, axis=1) / 1e6,
        np.median(ours, axis=1) / 1e6,
        process_log_ratios(ours, bare),
        process_log_ratios(again, bare),
    )


def table_row(label: str, bare: float, ours: float, log_ours: float, log_again: float) -> str:
    """Return one line: times in milliseconds, log ratios as percent."""
    return (
        f"{label:>7}{bare:10.4f}{ours:12.4f}{np.expm1(log_ours):11.2%}{np.expm1(log_again):13.2%}"
    )


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--model", default="compressed")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--processes", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--process", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def run_process(process: int) -> dict[str, list[int]]:
    """Run this script again as one measuring process and return its samples in nanoseconds."""
    command = [sys.executable, *sys.argv, "--process", str(process)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    samples: dict[str, list[int]] = json.loads(done.stdout)
    return samples


def one_process(options: argparse.Namespace) -> dict[str, list[int]]:
    """Load the model three times in random order, warm up, and time the rounds."""
    order = random.Random(options.process)
    calls = {}
    for name in order.sample(NAMES, len(NAMES)):  # who is loaded first may be luckier in memory
        model = load(options.bundle, options.model, runtime="onnxruntime", threads=options.threads)
        feed = random_feed({t.name: with_batch(t, options.batch) for t in model.spec.inputs}, 0)
        if name == "edgekd":
            calls[name] = lambda model=model, arrays=[feed[t.name] for t in model.spec.inputs]: (
                model(*arrays)
            )
        else:
            session = bare_session(options, model)
            calls[name] = lambda session=session, feed=feed: session.run(None, feed)
    time_rounds(calls, max(10, options.rounds // 5), order)
    return time_rounds(calls, options.rounds, order)


def bare_session(options: argparse.Namespace, model: Model) -> ort.InferenceSession:
    """Return an InferenceSession with the options that edgekd.runtime uses."""
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.log_severity_level = 3
    path = options.bundle / model.manifest.models[options.model]
    return ort.InferenceSession(path, settings, providers=["CPUExecutionProvider"])


def with_batch(tensor: TensorSpec, batch: int) -> TensorSpec:
    """Fix the open axes of ``tensor``."""
    shape = tuple(batch if size is None else size for size in tensor.shape)
    return TensorSpec(tensor.name, tensor.dtype, shape)


if __name__ == "__main__":
    main()
