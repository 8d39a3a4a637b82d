"""One fresh process that loads one model and runs it: how much memory that takes at most.

``python -m edgekd.bench.memory_worker``, JSON on stdin: ``{"model": {"path", "runtime",
"precision"}, "protocol": {...}}``; the answer on stdout is ``{"bytes": int}``: the peak of the
resident set above what the process held before it opened the model. What goes wrong is one line on
stderr and exit code 2.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from edgekd.bench.machine import peak_resident_bytes
from edgekd.bench.protocol import Protocol
from edgekd.bench.worker import run
from edgekd.errors import MeasurementError


def main() -> int:
    """Read the job, run it, write the answer; return the exit code."""
    job = json.load(sys.stdin)
    try:
        grown = peak_growth(job["model"], Protocol.from_dict(job["protocol"]))
    except MeasurementError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(json.dumps({"bytes": grown}))
    return 0


def peak_growth(model: Mapping[str, Any], protocol: Protocol) -> int:
    """Return the bytes that the peak grows by while the model is loaded and run.

    Raises MeasurementError when the model cannot be loaded or run, or where the system does not
    tell.
    """
    before = peak_resident_bytes()
    run({"model": model}, protocol, 0)
    return peak_resident_bytes() - before


if __name__ == "__main__":
    sys.exit(main())
