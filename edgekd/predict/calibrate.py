"""Measure the grid of calibration networks on this machine and keep what was found."""

from __future__ import annotations

import datetime
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import onnx
import onnxruntime

from edgekd.bench.machine import fingerprint, runs_here
from edgekd.bench.runner import run_worker
from edgekd.device import DeviceProfile
from edgekd.errors import MeasurementError, NoVerdictError, ProfileError
from edgekd.predict.builder import Builder
from edgekd.predict.correct import LEAST_NETWORKS, compare_held_out
from edgekd.predict.graph import read_optimised
from edgekd.predict.grid import calibration_network
from edgekd.predict.layers import conv
from edgekd.predict.table import CalibrationTable, Network
from edgekd.progress import Progress, Silent

NETWORKS = 1400
"""How many networks a calibration has, unless its time is over before."""

BATCH = 12  # networks of one process
_TIMEOUT_S = 600.0


def calibrate(
    profile: DeviceProfile,
    path: Path,
    *,
    threads: int | None = None,
    budget_s: float = 540.0,
    networks: int = NETWORKS,
    seed: int = 0,
    progress: Progress | None = None,
) -> CalibrationTable:
    """Measure networks for at most ``budget_s`` seconds and store them in ``path``.

    What ``path`` holds already is kept and continued, and it is written anew after every batch, so
    an interrupted calibration goes on where it was. ``threads`` is the profile's by default.

    Raises ProfileError when the device is not this machine, NoVerdictError when ``path`` was
    measured on another machine or in another way, MeasurementError when measuring fails.
    """
    if not runs_here(profile):
        raise ProfileError(
            f"{profile.name} is not this machine ({profile.runtime} on "
            f"{profile.architecture or 'any processor'}): run edgekd targets calibrate "
            "on the device and copy the file"
        )
    progress = progress or Silent()
    table = _start(path, threads or profile.threads, seed)
    started = monotonic()
    next_number = 1 + max((network.number for network in table.networks), default=-1)
    missing = max(0, networks - next_number)
    if missing == 0:
        progress.note(f"{path} is complete: {len(table.networks)} networks")
    with tempfile.TemporaryDirectory() as folder, progress.task("Calibrating", missing) as advance:
        reference = Path(folder) / "reference.onnx"
        reference.write_bytes(reference_model())
        while next_number < networks and monotonic() - started < budget_s:
            numbers = range(next_number, min(next_number + BATCH, networks))
            found = _batch(numbers, reference, table.conditions, Path(folder))
            table = table.with_networks(found, datetime.date.today().isoformat())
            table.write(path)
            next_number = numbers.stop
            advance(len(numbers))
    if len(table.networks) >= LEAST_NETWORKS and table.held_out is None:
        with progress.task("Comparing predictions with held-out networks", 1) as advance:
            table = replace(table, held_out=compare_held_out(table))
            advance(1)
        table.write(path)
    return table


def conditions(threads: int, seed: int) -> dict[str, Any]:
    """Return what all networks of a table must share."""
    return {
        "machine": fingerprint(),
        "onnxruntime": onnxruntime.__version__,
        "threads": threads,
        "seed": seed,
    }


def reference_model() -> bytes:
    """Return the model that is timed beside everything: some 3x3 convolutions, about 0.3 ms."""
    b = Builder(0)
    x = b.input(1, 16, 32, 32)
    for width in (32, 32, 64, 64):
        x = conv(b, x, width, 3)
    return b.finish(x)


def _start(path: Path, threads: int, seed: int) -> CalibrationTable:
    wanted = conditions(threads, seed)
    if not path.exists():
        return CalibrationTable(wanted, datetime.date.today().isoformat())
    table = CalibrationTable.read(path)
    # as JSON, since that is how the stored ones come back
    differ = [
        key
        for key, value in json.loads(json.dumps(wanted)).items()
        if table.conditions.get(key) != value
    ]
    if differ:
        raise NoVerdictError(
            f"{path} was measured under other conditions ({', '.join(differ)} differ): give "
            "another --out, or remove the file"
        )
    return table


def _batch(numbers: range, reference: Path, measured: Any, folder: Path) -> tuple[Network, ...]:
    models, names = [], []
    for number in numbers:
        name, content = calibration_network(measured["seed"], number)
        path = folder / f"{number}.onnx"
        path.write_bytes(content)
        names.append(name)
        models.append({"path": str(path), "optimised": str(folder / f"{number}-optimised.onnx")})
    job = {"models": models, "reference": str(reference), "threads": measured["threads"]}
    answers = run_worker("edgekd.bench.network_worker", job, _TIMEOUT_S)["models"]
    found = []
    for number, name, model, answer in zip(numbers, names, models, answers, strict=True):
        if "error" in answer:
            raise MeasurementError(f"calibration network {number}: {answer['error']}")
        found.append(_network(number, name, model["optimised"], answer))
        for file in model.values():
            Path(file).unlink()
    return tuple(found)


def _network(number: int, name: str, optimised: str, answer: dict[str, Any]) -> Network:
    model = onnx.load(optimised)
    # a node that was folded when the session started has no time and costs none
    timed = answer["nodes"]
    kernels = [kernel for kernel in read_optimised(model) if kernel.name in timed]
    return Network(
        number=number,
        name=name,
        total_us=answer["total_us"],
        reference_us=answer["reference_us"],
        kernels=tuple(kernels),
        node_us=tuple(timed[kernel.name] for kernel in kernels),
    )
