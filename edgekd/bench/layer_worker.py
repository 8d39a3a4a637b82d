"""One fresh process that times layers: ``python -m edgekd.bench.layer_worker``, JSON on stdin.

The job is ``{"layers": [{"few", "many": paths, "copies": int}], "threads": int}``; the answer on
stdout is ``{"microseconds": [float, ...]}``. What goes wrong is one line on stderr and exit code 2.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter_ns
from typing import Any

import numpy as np

from edgekd.bench.worker import open_session, random_feed, time_rounds
from edgekd.errors import MeasurementError
from edgekd.runtime.tensors import describe, one_line

_WARM_UP_NS = 10_000_000
_PASS_NS = 30_000_000  # for one pass over one layer; a layer gets _PASSES of them
_PASSES = 3
_ROUNDS = (10, 100)  # of a pass, at least and at most


def main() -> int:
    """Read the job, run it, write the answer; return the exit code."""
    job = json.load(sys.stdin)
    try:
        times = run(job["layers"], job["threads"])
    except MeasurementError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(json.dumps({"microseconds": times}))
    return 0


def run(layers: Sequence[Mapping[str, Any]], threads: int) -> list[float]:
    """Return the microseconds of each layer, the median of several passes over all of them.

    A machine that is slow for a second then spoils one pass of a layer, not its time.
    """
    passes: list[list[float]] = [[] for _ in layers]
    opened = [_calls(layer, threads) for layer in layers]
    for number in range(_PASSES):
        order = random.Random(number)
        for index in order.sample(range(len(layers)), len(layers)):
            passes[index].append(_slope_us(opened[index], layers[index]["copies"], order))
    return [float(np.median(times)) for times in passes]


def _calls(layer: Mapping[str, Any], threads: int) -> dict[str, Callable[[], object]]:
    return {name: _call(layer[name], threads) for name in ("few", "many")}


def _call(path: str, threads: int) -> Callable[[], object]:
    """Return the call of a session whose inputs and outputs lie in place already."""
    session = open_session("layer", path, threads)
    binding = session.io_binding()
    specs = {tensor.name: tensor for tensor in map(describe, session.get_inputs())}
    for name, array in random_feed(specs, 0).items():
        binding.bind_cpu_input(name, array)
    for tensor in session.get_outputs():
        binding.bind_output(tensor.name, "cpu")
    run_model: Callable[[], object] = lambda: session.run_with_iobinding(binding)  # noqa: E731
    try:
        run_model()
    except Exception as error:  # ONNX Runtime's errors have no base class of their own
        raise MeasurementError(f"a layer cannot run: {one_line(error)}") from error
    return run_model


def _slope_us(calls: Mapping[str, Callable[[], object]], more: int, order: random.Random) -> float:
    """Return the microseconds of one copy: the median of paired differences."""
    start = perf_counter_ns()
    rounds = 0
    while rounds < 3 or perf_counter_ns() - start < _WARM_UP_NS:
        for call in calls.values():
            call()
        rounds += 1
    round_ns = (perf_counter_ns() - start) / rounds
    least, most = _ROUNDS
    samples = time_rounds(calls, max(least, min(most, int(_PASS_NS / round_ns))), order)
    differences = np.subtract(samples["many"], samples["few"])
    return max(0.0, float(np.median(differences)) / more / 1e3)


if __name__ == "__main__":
    sys.exit(main())
