"""Many threads on one loaded model: python -m benchmarks.threads BUNDLE

Every thread calls the model with batches of mixed sizes and compares each answer, bit by bit, with
the one that a single thread got before. The table has the calls, the wrong answers, and the
process's memory: after loading, when a tenth of the calls is done, and at the end. Memory is flat
where the last two are alike.
"""

from __future__ import annotations

import argparse
import os
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.errors import EdgekdError
from edgekd.runtime import Model, load
from edgekd.spec import TensorSpec

SIZES = (1, 2, 3, 5, 8)
RUNTIMES = ("onnxruntime", "openvino", "tensorrt", "onnxruntime-cuda")


@dataclass(frozen=True)
class Outcome:
    """What came of all calls: ``wrong`` of them differed, ``memory`` in bytes at three times."""

    calls: int
    wrong: int
    seconds: float
    memory: tuple[int, int, int]

    @property
    def growth(self) -> int:
        """Bytes between a tenth of the calls and their end."""
        return self.memory[2] - self.memory[1]


def hammer(model: Model, threads: int, calls: int, sizes: Sequence[int] = SIZES) -> Outcome:
    """Call ``model`` from ``threads`` threads, ``calls`` times each, with batches of ``sizes``."""
    feeds = [random_feed(model, size, seed) for size in sizes for seed in range(4)]
    expected = [answers(model, feed) for feed in feeds]
    start, wrong, errors = resident_bytes(), [0] * threads, []
    tenth = threading.Barrier(threads + 1)

    def work(number: int) -> None:
        order = random.Random(number)
        try:
            for call in range(calls):
                if call == calls // 10:
                    tenth.wait()
                index = order.randrange(len(feeds))
                found = answers(model, feeds[index])
                wrong[number] += not same(found, expected[index])
        except BaseException as error:
            errors.append(error)
            tenth.abort()
            raise

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    began = time.perf_counter()
    for worker in workers:
        worker.start()
    try:
        tenth.wait()
    except threading.BrokenBarrierError:
        raise RuntimeError(f"a call failed: {errors[0]}") from errors[0]
    early = resident_bytes()
    for worker in workers:
        worker.join()
    if errors:
        raise RuntimeError(f"a call failed: {errors[0]}") from errors[0]
    seconds = time.perf_counter() - began
    return Outcome(threads * calls, sum(wrong), seconds, (start, early, resident_bytes()))


def random_feed(model: Model, size: int, seed: int) -> dict[str, Any]:
    """Return random inputs for a batch of ``size``; other free axes are of that length too."""
    random_numbers = np.random.default_rng((size, seed))
    return {spec.name: random_input(spec, size, random_numbers) for spec in model.spec.inputs}


def random_input(spec: TensorSpec, size: int, random_numbers: np.random.Generator) -> Any:
    """Return floats around 0, or the numbers 0 and 1 for other dtypes."""
    shape = [axis or size for axis in spec.shape]
    if np.dtype(spec.dtype).kind == "f":
        return random_numbers.normal(size=shape).astype(spec.dtype)
    return random_numbers.integers(0, 2, shape).astype(spec.dtype)


def answers(model: Model, feed: dict[str, Any]) -> list[Any]:
    """Return all outputs of a call."""
    found = model(**feed)
    return list(found.values()) if isinstance(found, dict) else [found]


def same(found: Sequence[Any], expected: Sequence[Any]) -> bool:
    """Tell whether two answers are the same, bit by bit."""
    return all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def resident_bytes() -> int:
    """Return the memory of this process, as Linux counts it."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Run every runtime that opens the bundle and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--runtime", action="append", choices=RUNTIMES)
    options = parser.parse_args()
    print(f"{options.threads} threads, batches of {', '.join(map(str, SIZES))}; memory in MiB")
    print("runtime              calls  wrong   seconds   loaded   at 10 %   at end")
    for runtime in options.runtime or RUNTIMES:
        try:
            model = load(options.bundle, "compressed", runtime=runtime, threads=1)
        except EdgekdError as error:
            print(f"{runtime:<16}not run: {error}")
            continue
        with model:
            found = hammer(model, options.threads, options.calls)
        memory = [f"{value / 2**20:9.1f}" for value in found.memory]
        print(f"{runtime:<16}{found.calls:>10}{found.wrong:>7}{found.seconds:>10.1f}", *memory)


if __name__ == "__main__":
    main()
