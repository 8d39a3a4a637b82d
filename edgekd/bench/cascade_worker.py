"""One fresh process that times a cascade against its model without exits, sample by sample.

``python -m edgekd.bench.cascade_worker``, a job as JSON on stdin: ``{"bundle", "inputs", "points",
"threads", "seed", "process"}``. ``inputs`` is a .npz file of the model's inputs for all samples.
The answer on stdout is ``{"samples_ns": {name: [ns of each sample]}, "exits": {point: [...]}}``,
where names are ``MODEL`` and the operating points. What goes wrong is one line on stderr and exit
code 2.
"""

from __future__ import annotations

import gc
import json
import random
import sys
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np

from edgekd.errors import EdgekdError, MeasurementError
from edgekd.runtime import Cascade, Model, load
from edgekd.runtime.trust import OWN_WORK

MODEL = "model"  # the compressed model without exits
_WARM_UP = 20  # samples, which every caller sees before the first timed one


def main() -> int:
    """Read the job, run it, write the answer; return the exit code."""
    job = json.load(sys.stdin)
    try:
        answer = run(**job)
    except EdgekdError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(json.dumps(answer))
    return 0


def run(
    bundle: str, inputs: str, points: list[str], threads: int, seed: int, process: int
) -> dict[str, Any]:
    """Time every sample once on each caller: the callers in random order, batch 1.

    Raises BundleError and DataError as ``load`` and calling do.
    """
    folder = Path(bundle)
    # compress wrote the bundle itself a moment ago, and nobody can have signed it yet
    whole = load(folder, "compressed", runtime="onnxruntime", threads=threads, trust=OWN_WORK)
    callers: dict[str, Model | Cascade] = {MODEL: whole}
    first = load(folder, operating_point=points[0], threads=threads, trust=OWN_WORK)
    if not isinstance(first, Cascade):
        raise MeasurementError(f"{bundle} has no early exits to time")
    callers[points[0]] = first
    callers.update((name, first.with_operating_point(name)) for name in points[1:])
    rows = _rows(Path(inputs))
    order = random.Random(f"{seed}-{process}")
    for row in rows[:_WARM_UP]:
        for caller in callers.values():
            caller(**row)
    samples = time_samples(callers, rows, order)
    return {"samples_ns": samples, "exits": _exits(callers, rows)}


def time_samples(
    callers: Mapping[str, Any], rows: list[dict[str, Any]], order: random.Random
) -> dict[str, list[int]]:
    """Return name -> nanoseconds for each sample, in the samples' order."""
    found = {name: [0] * len(rows) for name in callers}
    names, places = sorted(callers), list(range(len(rows)))
    order.shuffle(places)
    schedule = [(place, order.sample(names, len(names))) for place in places]
    gc.collect()
    gc.disable()
    try:
        for place, turn in schedule:
            row = rows[place]
            for name in turn:
                call = callers[name]
                start = perf_counter_ns()
                result = call(**row)
                found[name][place] = perf_counter_ns() - start
                del result
    finally:
        gc.enable()
    return found


def _rows(path: Path) -> list[dict[str, Any]]:
    """Return each sample's inputs, as batches of one."""
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    count = len(next(iter(arrays.values())))
    return [{name: array[i : i + 1] for name, array in arrays.items()} for i in range(count)]


def _exits(callers: Mapping[str, Any], rows: list[dict[str, Any]]) -> dict[str, list[int]]:
    cascades = {name: caller for name, caller in callers.items() if isinstance(caller, Cascade)}
    return {
        name: [int(cascade.run(**row).exits[0]) for row in rows]
        for name, cascade in cascades.items()
    }


if __name__ == "__main__":
    sys.exit(main())
