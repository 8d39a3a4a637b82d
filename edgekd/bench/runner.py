"""Measure a duet: start the processes one after another and put their samples together."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.bench.measurement import LatencyReport, summarise
from edgekd.bench.place import HERE, Place
from edgekd.bench.protocol import Protocol
from edgekd.errors import MeasurementError, NoVerdictError
from edgekd.progress import Progress, Silent


@dataclass(frozen=True)
class Variant:
    """An ONNX file and how it is run: ``runtime`` and ``precision`` are those of ``load``."""

    path: Path
    runtime: str = "onnxruntime"
    precision: str | None = None


def measure(
    models: Mapping[str, Path | Variant],
    *,
    baseline: str,
    protocol: Protocol | None = None,
    progress: Progress | None = None,
    timeout_s: float = 3600.0,
    same_inputs: bool = True,
    place: Place = HERE,
) -> LatencyReport:
    """Time ONNX files against each other on the CPU: a plain path on ONNX Runtime, or a Variant.

    All of them must take the same inputs, unless ``same_inputs`` is off, for parts of a model.
    ``baseline`` names the model that the ratios refer to. ``timeout_s`` is for one process, in
    seconds; ``progress`` is advanced once for each. ``place`` is where the processes run.

    Raises MeasurementError when a file or OpenVINO is missing, a model cannot be loaded or run,
    the inputs differ, or a process crashes or takes too long.
    """
    protocol, progress = protocol or Protocol(), progress or Silent()
    variants = _checked(models, baseline, place)
    answers = []
    with progress.task("Measuring latency", protocol.processes) as advance:
        for process in range(protocol.processes):
            job = {
                "models": variants,
                "protocol": protocol.to_dict(),
                "process": process,
                "same_inputs": same_inputs,
            }
            answers.append(run_worker("edgekd.bench.worker", job, timeout_s, place))
            advance(1)
    samples_ms = {
        name: [[ns / 1e6 for ns in answer["samples_ns"][name]] for answer in answers]
        for name in models
    }
    return LatencyReport(
        protocol=protocol,
        machine=place.machine(),
        runtime=answers[0]["runtime"],
        baseline=baseline,
        models=summarise(samples_ms, baseline),
    )


def _checked(
    models: Mapping[str, Path | Variant], baseline: str, place: Place
) -> dict[str, dict[str, Any]]:
    """Return the models as plain data for the worker."""
    if baseline not in models:
        raise MeasurementError(f"the baseline {baseline!r} is not among {', '.join(models)}")
    variants = {n: m if isinstance(m, Variant) else Variant(Path(m)) for n, m in models.items()}
    missing = [str(variant.path) for variant in variants.values() if not variant.path.is_file()]
    if missing:
        raise MeasurementError(f"there is no model file {missing[0]}")
    place.require({variant.runtime for variant in variants.values()})
    files = place.bring({variant.path for variant in variants.values()})
    return {
        name: {
            "path": files[variant.path],
            "runtime": variant.runtime,
            "precision": variant.precision,
        }
        for name, variant in variants.items()
    }


def run_worker(
    module: str, job: Mapping[str, Any], timeout_s: float, place: Place = HERE
) -> dict[str, Any]:
    """Run ``module`` in one fresh process to its end and return its answer.

    Raises MeasurementError with the line that it left when it fails or takes too long.
    """
    try:
        done = place.run(module, job, timeout_s)
    except TimeoutError as error:
        raise MeasurementError(
            f"a measuring process took more than {timeout_s:g} s; use fewer rounds"
        ) from error
    if done.code != 0:
        kind = NoVerdictError if done.code == 3 else MeasurementError
        raise kind(_why(done.code, done.stderr))
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _why(code: int, stderr: str) -> str:
    """Return the last line that a worker left, or the signal that ended it."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    if code < 0:
        return f"a measuring process was ended by {_signal_name(-code)}; is there enough memory?"
    return lines[-1] if lines else f"a measuring process ended with exit code {code}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
