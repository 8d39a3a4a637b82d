"""The latency of a model on a device that need not be here: kernel by kernel, and in total."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import platformdirs

from edgekd.bench.machine import fingerprint
from edgekd.device import DeviceProfile, is_file_name
from edgekd.errors import MeasurementError
from edgekd.predict.correct import Correction
from edgekd.predict.graph import Level, read_graph
from edgekd.predict.kernel import Kernel
from edgekd.predict.prediction import Band, KernelTime, Prediction
from edgekd.predict.roofline import Roofline, from_profile
from edgekd.predict.table import CalibrationTable
from edgekd.predict.tensorrt import read_tensorrt

SUFFIX = ".calibration.json"

# Of the bound alone. On one x86 processor, 90 % of 1,023 networks took 1.24 to 10.7 times
# the bound of the best rates measured there (docs/prediction.md); no other device was compared.
BOUND = Band(1.0, 11.0, "a roofline bound from the profile's figures, not validated on the device")


def calibration_path(target: str, profile: DeviceProfile) -> Path:
    """Return where a target's calibration is kept: beside a board's file, or in the user's data."""
    if is_file_name(target):
        return Path(target).with_suffix(SUFFIX)
    return Path(platformdirs.user_data_dir("edgekd")) / "calibrations" / f"{profile.name}{SUFFIX}"


def predict(
    model: bytes | Path,
    profile: DeviceProfile,
    correction: Correction | None = None,
    *,
    batch: int = 1,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> Prediction:
    """Predict one call of an ONNX ``model`` on the device of ``profile``.

    With a ``correction`` from a calibration of the device the times are those of its kernels;
    without one they are the bound from the profile's figures. ``shapes`` gives whole shapes of
    inputs whose axes are open besides the batch.

    Raises ExportError when the model cannot be read or an axis is open, ProfileError when there
    are neither figures nor a correction, MeasurementError when that is of another target.
    """
    if profile.runtime == "tensorrt":
        if correction is not None:
            raise MeasurementError(
                f"a calibration is of ONNX Runtime, {profile.name} runs TensorRT: leave it out"
            )
        roofline = from_profile(profile)
        kernels = read_tensorrt(model, batch=batch, shapes=shapes)
        return _bound(profile, roofline, kernels, batch, "tensorrt, by its documented fusions")
    if correction is None:
        roofline = from_profile(profile)
        level = _level(profile.architecture)
        kernels = read_graph(model, level, batch=batch, shapes=shapes)
        return _bound(profile, roofline, kernels, batch, "onnxruntime CPU")
    architecture = str(correction.table.conditions["machine"].get("architecture"))
    if profile.architecture not in (None, architecture):
        raise MeasurementError(
            f"the calibration is of a processor {architecture}, {profile.name} has "
            f"{profile.architecture}: calibrate on the device"
        )
    kernels = read_graph(model, _level(architecture), batch=batch, shapes=shapes)
    return _calibrated(profile, correction, kernels, batch)


def _level(architecture: str | None) -> Level:
    """Return ``all`` where the runtime lays out data here as it does there."""
    return "all" if architecture in (None, fingerprint()["architecture"]) else "extended"


def _bound(
    profile: DeviceProfile, roofline: Roofline, kernels: Sequence[Kernel], batch: int, runtime: str
) -> Prediction:
    times = [roofline.microseconds(kernel) for kernel in kernels]
    return Prediction(
        target=profile.name,
        runtime=runtime,
        basis="roofline",
        batch=batch,
        threads=profile.threads,
        kernels=_timed(kernels, times, roofline, 0.0),
        call_us=0.0,
        band=BOUND,
        notes=tuple(roofline.missing(kernels)),
    )


def _calibrated(
    profile: DeviceProfile, correction: Correction, kernels: Sequence[Kernel], batch: int
) -> Prediction:
    table = correction.table
    times = correction.microseconds(kernels)
    call_us = correction.call_us
    threads = int(table.conditions["threads"])
    return Prediction(
        target=profile.name,
        runtime=f"onnxruntime {table.conditions['onnxruntime']} CPU",
        basis="calibration",
        batch=batch,
        threads=threads,
        kernels=_timed(kernels, times, correction.roofline, call_us),
        call_us=call_us,
        band=correction.band,
        notes=tuple(_notes(profile, table, correction.unknown(kernels))),
    )


def _timed(
    kernels: Sequence[Kernel], times: Sequence[float], roofline: Roofline, call_us: float
) -> tuple[KernelTime, ...]:
    total = call_us + sum(times) or 1.0
    return tuple(
        KernelTime(
            name=kernel.name,
            op=kernel.op,
            kind=kernel.kind,
            arithmetic=kernel.arithmetic,
            microseconds=float(time),
            limit=roofline.limit(kernel),
            share=float(time) / total,
        )
        for kernel, time in zip(kernels, times, strict=True)
    )


def _notes(profile: DeviceProfile, table: CalibrationTable, unknown: set[str]) -> list[str]:
    notes = [
        f"calibrated on {table.machine}, {table.date}, {len(table.networks)} networks, "
        f"{table.conditions['threads']} thread(s)"
    ]
    if table.conditions["threads"] != profile.threads:
        notes.append(
            f"the profile says {profile.threads} thread(s), the calibration has another number"
        )
    if unknown:
        names = ", ".join(sorted(unknown))
        notes.append(f"not in the calibration, counted at the roofline: {names}")
    return notes
