"""One of two processes that take turns: ``python -m edgekd.bench.turn_worker``.

For models that cannot live in one process, such as one on another version of the runtime. The
first line on stdin is a job as JSON: ``{"model": {...}, "protocol": {...}, "process": index,
"inputs": path or null}``, as in ``edgekd/bench/worker.py``. The answer is a line of JSON with
``{"runtime", "cores", "warm_up_ms", "inputs"}``. Then every line on stdin asks for one timed call,
which comes right after an untimed one, and is answered by its ``[wall_ns, cpu_ns, waits]``. What
goes wrong is one line on stderr and exit code 2.
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path

from edgekd.bench.clock import time_call
from edgekd.bench.machine import keep_to_cores
from edgekd.bench.protocol import Protocol
from edgekd.bench.worker import prepare
from edgekd.errors import MeasurementError


def main() -> int:
    """Answer the job, then every line until stdin ends; return the exit code."""
    job = json.loads(sys.stdin.readline())
    try:
        protocol = Protocol.from_dict(job["protocol"])
        cores = keep_to_cores(protocol.threads, job["process"])
        inputs = None if job["inputs"] is None else Path(job["inputs"])
        ready = prepare({"model": job["model"]}, protocol, job["process"], inputs_file=inputs)
    except MeasurementError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    described = [str(tensor) for tensor in ready.inputs["model"].values()]
    _say({**ready.facts, "cores": cores, "inputs": described})
    call = ready.calls["model"]
    gc.collect()
    gc.disable()
    for _ in sys.stdin:
        call()
        _say(list(time_call(call)))
    return 0


def _say(data: object) -> None:
    sys.stdout.write(json.dumps(data) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
