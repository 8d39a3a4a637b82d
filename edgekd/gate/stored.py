"""A baseline's latency kept in a file, for where the baseline itself cannot be run any more.

This is the weaker way. Machines drift between two measurements, and no test of the samples sees
that: see the false alarms of the column "--stored" in docs/benchmarks.md.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.bench.machine import fingerprint
from edgekd.bench.measurement import ensure_same
from edgekd.bench.pairs import process_centre
from edgekd.bench.protocol import Protocol
from edgekd.bench.rank_sum import shift_bounds
from edgekd.bench.runner import Variant
from edgekd.cache import replace_file
from edgekd.errors import MeasurementError, NoVerdictError
from edgekd.gate.decision import ERROR, verdict_of
from edgekd.gate.latency import CANDIDATE, LatencyVerdict, median_ms, rounds_for, run_process
from edgekd.progress import Progress, Silent

FORMAT = "edgekd-gate-baseline-1"
PROCESSES = 12

NOTE = (
    "against stored numbers: weaker than measuring both now; when only the load of the machine had "
    "changed, 48 to 92 % of such gates were false alarms (docs/benchmarks.md)"
)


@dataclass(frozen=True)
class StoredBaseline:
    """One model's latency alone, with its protocol, machine and runtime and every raw sample."""

    model: str
    protocol: Protocol
    machine: Mapping[str, Any]
    runtime: str
    answers: tuple[Mapping[str, Any], ...]

    def write(self, path: Path) -> None:
        """Write the file at once; raises MeasurementError when that fails."""
        data = {
            "format": FORMAT,
            "model": self.model,
            "protocol": self.protocol.to_dict(),
            "machine": dict(self.machine),
            "runtime": self.runtime,
            "answers": list(self.answers),
        }
        try:
            replace_file(path, json.dumps(data).encode())
        except OSError as error:
            raise MeasurementError(f"{path} cannot be written: {error.strerror}") from error


def read_stored(path: Path) -> StoredBaseline:
    """Read what ``write`` wrote; raises MeasurementError for anything else."""
    try:
        data = json.loads(path.read_text("utf-8"))
        if data["format"] != FORMAT:
            raise ValueError(f"its format is {data['format']!r}")
        found = StoredBaseline(
            model=str(data["model"]),
            protocol=Protocol.from_dict(data["protocol"]),
            machine=dict(data["machine"]),
            runtime=str(data["runtime"]),
            answers=tuple(data["answers"]),
        )
        for answer in found.answers:
            process_centre(answer, CANDIDATE, found.protocol.clock)
    except OSError as error:
        raise MeasurementError(f"{path} cannot be read: {error.strerror}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        why = str(error) if isinstance(error, ValueError) else f"no {error}"
        raise MeasurementError(
            f"{path} is not what --save-baseline writes ({why}); measure the baseline again"
        ) from error
    return found


def measure_stored(
    variant: Variant,
    model: str,
    protocol: Protocol,
    progress: Progress | None = None,
    processes: int = PROCESSES,
) -> StoredBaseline:
    """Measure one model alone, to be stored; raises MeasurementError when it cannot be run."""
    trial = run_process({CANDIDATE: variant}, replace(protocol, rounds=3), 0, None)
    protocol = replace(protocol, rounds=rounds_for(trial, math.inf, 0.0), processes=processes)
    answers = _measure(variant, protocol, progress)
    return StoredBaseline(model, protocol, fingerprint(), str(trial["runtime"]), answers)


def gate_stored(
    stored: StoredBaseline,
    variant: Variant,
    max_regression: float,
    progress: Progress | None = None,
) -> LatencyVerdict:
    """Measure the candidate by the stored protocol, and compare with the stored numbers.

    Raises NoVerdictError when machine or runtime are not those of the stored numbers,
    MeasurementError when the candidate cannot be run.
    """
    started = time.monotonic()
    ensure_same("machine", stored.machine, fingerprint())
    answers = _measure(variant, stored.protocol, progress)
    runtime = str(answers[0]["runtime"])
    if runtime != stored.runtime:
        raise NoVerdictError(
            f"the stored numbers are of {stored.runtime}, here is {runtime}; measure the baseline "
            "again"
        )
    clock = stored.protocol.clock
    before = [process_centre(answer, CANDIDATE, clock) for answer in stored.answers]
    after = [process_centre(answer, CANDIDATE, clock) for answer in answers]
    limit, found = math.log1p(max_regression), shift_bounds(before, after, ERROR)
    middle = float(np.median(before))
    return LatencyVerdict(
        verdict=verdict_of(found, limit),
        limit=limit,
        change=found.centre,
        low=found.low,
        high=found.high,
        error=ERROR,
        baseline_ms=median_ms(stored.answers, CANDIDATE),
        candidate_ms=median_ms(answers, CANDIDATE),
        log_ratios=tuple(value - middle for value in after),
        clock=clock,
        seconds=time.monotonic() - started,
        protocol=stored.protocol,
        machine=stored.machine,
        runtime=runtime,
        note=NOTE,
        answers=answers,
    )


def _measure(
    variant: Variant, protocol: Protocol, progress: Progress | None
) -> tuple[dict[str, Any], ...]:
    answers = []
    with (progress or Silent()).task("Measuring latency", protocol.processes) as advance:
        for number in range(protocol.processes):
            answers.append(run_process({CANDIDATE: variant}, protocol, number, None))
            advance(1)
    return tuple(answers)
