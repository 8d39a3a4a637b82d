"""Measure a duet: start the processes one after another and put their samples together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import edgekd
from edgekd.bench.clock import CallTime, running_ns
from edgekd.bench.machine import fingerprint
from edgekd.bench.measurement import LatencyReport, summarise
from edgekd.bench.place import Ended, Place
from edgekd.bench.protocol import Protocol
from edgekd.errors import MeasurementError, NoVerdictError
from edgekd.progress import Progress, Silent
from edgekd.runtime.openvino import is_installed


@dataclass(frozen=True)
class Variant:
    """An ONNX file and how it is run: ``runtime`` and ``precision`` are those of ``load``.

    ``extra`` small matrix products are added to each call, to make a slower copy of a model.
    """

    path: Path
    runtime: str = "onnxruntime"
    precision: str | None = None
    extra: int = 0


class Here:
    """This machine; ``folder`` (the current one by default) is for what processes write."""

    title = ""

    def __init__(self, folder: Path = Path()) -> None:
        self._folder = folder

    def bring(self, files: Collection[Path]) -> Mapping[Path, str]:
        """Leave the files where they are."""
        return {file: str(file.resolve()) for file in files}

    def require(self, runtimes: Collection[str]) -> None:
        """Raise MeasurementError when OpenVINO is asked for and missing."""
        if "openvino" in runtimes and not is_installed():
            raise MeasurementError('OpenVINO is not installed: pip install "edgekd[openvino]"')

    def run(self, module: str, job: Mapping[str, Any], timeout_s: float) -> Ended:
        """Run ``module`` with this Python; raises TimeoutError."""
        try:
            done = subprocess.run(
                worker_command(module),
                input=json.dumps(job),
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                env=worker_environment(),
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise TimeoutError from error
        return Ended(done.returncode, done.stdout, done.stderr)

    def output(self, name: str) -> str:
        """Return a path in the folder."""
        return str((self._folder / name).resolve())

    def fetch(self, name: str) -> bytes:
        """Return a file of the folder; raises MeasurementError."""
        try:
            return (self._folder / name).read_bytes()
        except OSError as error:
            raise MeasurementError(f"{name} cannot be read: {error.strerror}") from error

    def machine(self) -> Mapping[str, Any]:
        """Return this machine's fingerprint."""
        return fingerprint()


HERE = Here()


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
    if baseline not in models:
        raise MeasurementError(f"the baseline {baseline!r} is not among {', '.join(models)}")
    variants = as_job(models, place)
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
    compared = samples_ms
    if protocol.clock == "running":
        compared = {name: [_running_ms(answer, name) for answer in answers] for name in models}
    return LatencyReport(
        protocol=protocol,
        machine=place.machine(),
        runtime=answers[0]["runtime"],
        baseline=baseline,
        models=summarise(samples_ms, baseline, compared),
    )


def _running_ms(answer: Mapping[str, Any], name: str) -> list[float]:
    rows = zip(*(answer[key][name] for key in ("samples_ns", "cpu_ns", "waits")), strict=True)
    return [max(1, running_ns(CallTime(*row))) / 1e6 for row in rows]


def as_job(models: Mapping[str, Path | Variant], place: Place = HERE) -> dict[str, dict[str, Any]]:
    """Return the models as plain data for the worker, once their files are in ``place``.

    Raises MeasurementError when a file is missing, or a runtime there.
    """
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
            "extra": variant.extra,
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
        raise kind(explain(done.code, done.stderr))
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def worker_command(module: str, python: str = sys.executable) -> list[str]:
    """Return the command that runs a worker; nothing in the current folder shadows a module."""
    start = "import runpy, sys; sys.path.pop(0); runpy.run_module(sys.argv[1], run_name='__main__')"
    # -P does the same, from Python 3.11 on; another interpreter may be older.
    return (
        [python, "-P", "-m", module] if python == sys.executable else [python, "-c", start, module]
    )


def worker_environment() -> dict[str, str]:
    """Return this environment, with the folder that this very edgekd is imported from."""
    root = str(Path(edgekd.__file__).resolve().parents[1])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUTF8": "1"}


def explain(code: int, stderr: str) -> str:
    """Return why a worker ended: the last line that a worker left, or the signal that ended it."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    if code < 0:
        return f"a measuring process was ended by {_signal_name(-code)}; is there enough memory?"
    return lines[-1] if lines else f"a measuring process ended with exit code {code}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
