"""``edgekd predict``: the latency of a model on a device that need not be here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekd_cli.evaluate import Role
from edgekd_cli.extras import require_compress
from edgekd_cli.options import Json, comma_list, length
from edgekd_cli.output import show_json, show_line, show_table

if TYPE_CHECKING:
    from edgekd.predict.prediction import Prediction


def run(
    model: Annotated[Path, typer.Argument(help="An ONNX file or a bundle.")],
    target: Annotated[str, typer.Option(help="Name, alias or YAML file of a device.")] = "cpu",
    role: Annotated[
        Role, typer.Option("--model", help="Which model of a bundle.")
    ] = Role.compressed,
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="What edgekd targets calibrate measured on the device.",
            show_default="the one that was stored for the target",
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples in one call.")] = 1,
    input_shape: Annotated[
        list[str] | None,
        typer.Option(
            help="INPUT:1,128 for an input with open axes besides the batch; may be repeated.",
            show_default="the model's",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Predict the latency of every kernel and of the whole; nothing is measured."""
    shapes = dict(_shape(text) for text in input_shape or [])
    require_compress()
    from edgekd.device import announce, load_profile
    from edgekd.predict.correct import Correction
    from edgekd.predict.predict import calibration_path, predict
    from edgekd.predict.table import CalibrationTable

    profile = load_profile(target)
    path = calibration or calibration_path(target, profile)
    use = calibration is not None or (profile.runtime == "onnxruntime" and path.is_file())
    correction = Correction(CalibrationTable.read(path)) if use else None
    found = predict(_file(model, role), profile, correction, batch=batch, shapes=shapes)
    if as_json:
        show_json(found.to_dict())
    else:
        show_line(announce(target, profile))
        _show(found)


def _file(model: Path, role: Role) -> Path:
    """Return the ONNX file; a bundle is checked first."""
    from edgekd.errors import ExportError
    from edgekd.runtime.bundle import verify_models
    from edgekd.runtime.trust import read_trusted_manifest

    if not model.is_dir():
        if not model.is_file():
            raise ExportError(f"there is no model file {model}")
        return model
    manifest = read_trusted_manifest(model)
    verify_models(model, manifest)
    return model / manifest.models[role.value]


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Read ``name:1,3,32,32``."""
    name, colon, sizes = text.rpartition(":")
    if not colon or not name:
        raise typer.BadParameter(f"{text!r} is not INPUT:1,128", param_hint="--input-shape")
    return name, comma_list("--input-shape", sizes, length) or ()


def _show(found: Prediction) -> None:
    rows = [
        (
            kernel.name,
            kernel.op,
            f"{kernel.kind} {kernel.arithmetic}",
            f"{kernel.microseconds:.1f}",
            kernel.limit,
            f"{100 * kernel.share:.1f} %",
        )
        for kernel in found.kernels
    ]
    rows.append(("(the call itself)", "", "", f"{found.call_us:.1f}", "overhead", ""))
    show_table(("kernel", "operation", "kind", ">us", "limited by", ">share"), rows)
    show_line(
        f"predicted, not measured: {found.total_us / 1e3:.3f} ms "
        f"({found.low_us / 1e3:.3f} to {found.high_us / 1e3:.3f}) on {found.target}, "
        f"{found.runtime}, batch {found.batch}, {found.threads} thread(s)"
    )
    show_line(f"basis: {found.basis}; range: {found.band.source}")
    for note in found.notes:
        show_line(note)
