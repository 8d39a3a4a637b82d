"""One fresh process of a calibration: ``python -m edgekd.bench.network_worker``, JSON on stdin.

The job is ``{"models": [{"path", "optimised"}], "reference": path, "threads": int}``. Every model
is timed twice in one session: node by node by ONNX Runtime's own profiler, and whole, without it,
in turns with the reference model. ONNX Runtime's optimised graph is written to ``optimised``. The
answer on stdout is ``{"models": [{"total_us", "reference_us", "nodes": {name: us}}]}``; a model
that ONNX Runtime refuses gives ``{"error": str}`` instead. What goes wrong otherwise is one line on
stderr and exit code 2.
"""

from __future__ import annotations

import json
import random
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort

from edgekd.bench.clock import running_ns
from edgekd.bench.worker import measuring_options, open_session, random_feed, time_calls
from edgekd.errors import MeasurementError
from edgekd.runtime.tensors import describe, one_line

if TYPE_CHECKING:
    from edgekd.bench.worker import Call

_WARM_UP_NS = 15_000_000
_PROFILE_NS = 120_000_000
_TIMED_NS = 150_000_000
_ROUNDS = (8, 60)  # at least and at most
_NODE = "_kernel_time"


def main() -> int:
    """Read the job, run it, write the answer; return the exit code."""
    job = json.load(sys.stdin)
    try:
        answers = run(job["models"], job["reference"], job["threads"])
    except MeasurementError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(json.dumps({"models": answers}))
    return 0


def run(models: list[Mapping[str, str]], reference: str, threads: int) -> list[dict[str, Any]]:
    """Return what was measured of each model; raises MeasurementError."""
    beside = _call(open_session("reference", reference, threads))
    answers = []
    for number, model in enumerate(models):
        try:
            answers.append(_measure(model, beside, threads, number))
        except MeasurementError as error:
            answers.append({"error": str(error)})
    return answers


def _measure(model: Mapping[str, str], beside: Call, threads: int, seed: int) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        options = measuring_options(threads)
        options.optimized_model_filepath = model["optimised"]
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = open_session("network", model["path"], threads, options)
        call = _call(session)
        start = perf_counter_ns()
        skipped = 0
        while skipped < 3 or perf_counter_ns() - start < _WARM_UP_NS:
            call()
            skipped += 1
        once_ns = (perf_counter_ns() - start) / skipped
        rounds = _between(_PROFILE_NS / once_ns)
        for _ in range(rounds):
            call()
        events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
    calls = {"network": call, "reference": beside}
    # The call before each timed one makes it that of a model called in a loop.
    times = time_calls(calls, _between(_TIMED_NS / once_ns / 2), random.Random(seed), primers=1)
    took = {name: float(np.median([*map(running_ns, rows)])) / 1e3 for name, rows in times.items()}
    return {
        "total_us": took["network"],
        "reference_us": took["reference"],
        "nodes": _nodes(events, rounds),
    }


def _between(rounds: float) -> int:
    least, most = _ROUNDS
    return max(least, min(most, int(rounds)))


def _nodes(events: list[Mapping[str, Any]], rounds: int) -> dict[str, float]:
    """Return the microseconds of each node, without the calls of the warm-up.

    The profiler's clock also runs while another program has the core, so the upper half is left
    out. It cuts to whole microseconds, so a mean says more than a median, and half a microsecond
    comes on top.
    """
    times: dict[str, list[int]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_NODE):
            times[event["name"].removesuffix(_NODE)].append(event["dur"])
    found = {}
    for name, all_us in times.items():
        lower = np.sort(all_us[-rounds:])[: (rounds + 1) // 2]
        found[name] = round(float(lower.mean()) + 0.5, 2)
    return found


def _call(session: ort.InferenceSession) -> Call:
    """Return the call that production makes, with random inputs; raises MeasurementError."""
    specs = {tensor.name: tensor for tensor in map(describe, session.get_inputs())}
    feed = random_feed(specs, 0)
    names = [tensor.name for tensor in session.get_outputs()]
    call: Call = lambda: session.run(names, feed)  # noqa: E731
    try:
        call()
    except Exception as error:  # ONNX Runtime's errors have no base class of their own
        raise MeasurementError(f"a network cannot run: {one_line(error)}") from error
    return call


if __name__ == "__main__":
    sys.exit(main())
