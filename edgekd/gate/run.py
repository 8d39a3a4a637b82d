"""``edgekd gate`` from top to bottom: open both, compare, conclude."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.bench.place import Place
from edgekd.bench.protocol import Protocol
from edgekd.bench.runner import HERE
from edgekd.evaluate import open_for
from edgekd.gate.checks import Growth, memory_check, quality_checks, size_check
from edgekd.gate.latency import gate_latency
from edgekd.gate.result import Check, GateResult, OnInconclusive, latency_check
from edgekd.gate.subject import Subject, open_subject
from edgekd.metrics import Budget
from edgekd.progress import Progress, Silent

PROTOCOL = Protocol(warmup_ms=100.0, clock="running")
"""What a gate measures by unless told otherwise; processes and rounds are found as it goes."""


@dataclass(frozen=True)
class GateRequest:
    """What is compared and what is allowed; the defaults are those of the command line.

    ``max_regression`` is a fraction of the baseline's latency. Without ``data``, neither accuracy
    nor flips are compared, and latency is measured on random inputs; with it, on real ones.
    ``pythons`` are interpreters of baseline and candidate, where each needs its own.
    """

    baseline: Path
    candidate: Path
    max_regression: float
    time_budget_s: float = 60.0
    protocol: Protocol = PROTOCOL
    data: str | None = None
    budget: Budget = field(default_factory=Budget)
    growth: Growth = field(default_factory=Growth)
    on_inconclusive: OnInconclusive = "report"
    pythons: tuple[str, str] | None = None


def gate(
    request: GateRequest, progress: Progress | None = None, *, place: Place = HERE
) -> GateResult:
    """Compare the candidate with the baseline, now and on ``place``.

    Raises BundleError, DataError and MeasurementError for what cannot be opened, read or run, and
    NoVerdictError for models that cannot be compared.
    """
    progress = progress or Silent()
    baseline, candidate = open_subject(request.baseline), open_subject(request.candidate)
    checks = _cheap_checks(request, baseline, candidate, progress, place)
    with _real_inputs(request, baseline, place) as inputs:
        latency = gate_latency(
            baseline.variant,
            candidate.variant,
            request.max_regression,
            protocol=replace(request.protocol, inputs=_name(inputs)),
            time_budget_s=request.time_budget_s,
            inputs=inputs,
            pythons=request.pythons,
            place=place,
            progress=progress,
        )
    if baseline.has_exits or candidate.has_exits:
        note = "timed without early exits: their latency depends on the data (edgekd bench)"
        latency = replace(latency, note="; ".join(filter(None, [latency.note, note])))
    return GateResult(
        str(request.baseline),
        str(request.candidate),
        (latency_check(latency), *checks),
        latency,
        request.on_inconclusive,
    )


def _cheap_checks(
    request: GateRequest,
    baseline: Subject,
    candidate: Subject,
    progress: Progress,
    place: Place,
) -> list[Check]:
    """Return the checks that are quick; a mistake in their input shows before the long one."""
    checks = []
    growth = request.growth
    if request.data is not None:
        checks += quality_checks(baseline, candidate, request.data, request.budget, progress)
    if growth.max_size is not None:
        checks.append(size_check(baseline, candidate, growth.max_size))
    if growth.max_memory is not None:
        limit, protocol = growth.max_memory, request.protocol
        checks.append(memory_check(baseline, candidate, limit, protocol, progress, place))
    return checks


@contextmanager
def _real_inputs(request: GateRequest, baseline: Subject, place: Place) -> Iterator[Path | None]:
    """Yield a file with one batch of the data's validation samples as the model's inputs."""
    if request.data is None or baseline.manifest is None or place is not HERE:
        yield None
        return
    manifest = baseline.manifest
    dataset = open_for(manifest, request.data)
    rows = np.resize(np.arange(len(dataset.validation)), request.protocol.batch)
    arrays, _ = dataset.inputs(dataset.validation, rows)
    arrays = {
        tensor.name: arrays[tensor.name].astype(tensor.dtype) for tensor in manifest.spec.inputs
    }
    with TemporaryDirectory() as folder:
        path = Path(folder) / "inputs.npz"
        write_arrays(path, arrays)
        yield path


def _name(inputs: Path | None) -> str:
    """Return what the protocol says of the inputs."""
    if inputs is None:
        return "random"
    return f"real, SHA-256 {hashlib.sha256(inputs.read_bytes()).hexdigest()[:16]}"


def write_arrays(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write a .npz file with arrays of any names (``numpy.savez`` takes some for its options)."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy")  # without the time, so that hashes repeat
            with archive.open(entry, "w") as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
