"""``edgekd eval``: how good a bundle's model is on data."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from edgekd_cli.console import open_progress
from edgekd_cli.options import Json, Precision, Runtime
from edgekd_cli.output import percent, show_json, show_line


class Role(StrEnum):
    """The models of a bundle."""

    compressed = "compressed"
    baseline = "baseline"


def run(
    bundle: Annotated[Path, typer.Argument(help="The folder that compress wrote.")],
    data: Annotated[str, typer.Option(help=".npz, image folder or package.module:factory.")],
    model: Annotated[Role, typer.Option(help="Which model of the bundle.")] = Role.compressed,
    runtime: Annotated[
        Runtime, typer.Option(help="What runs the model; OpenVINO is an extra.")
    ] = Runtime.onnxruntime,
    precision: Annotated[
        Precision | None,
        typer.Option(help="Of float layers; bf16 on OpenVINO.", show_default="f32"),
    ] = None,
    operating_point: Annotated[
        str | None,
        typer.Option(
            help="Evaluate the early exits with the thresholds of that name.",
            show_default="the model without exits",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Top-1 accuracy of the exported model; without labels, how close it is to the baseline."""
    from edgekd.evaluate import evaluate

    if operating_point is not None:
        if model is not Role.compressed:
            raise typer.BadParameter(
                "only the compressed model has early exits", param_hint="--operating-point"
            )
        _run_exits(bundle, data, operating_point, runtime, precision, as_json)
        return
    result = evaluate(
        bundle,
        data,
        model=model.value,
        runtime=runtime.value,
        precision=None if precision is None else precision.value,
        progress=open_progress(),
    )
    if as_json:
        show_json(result.to_dict())
        return
    quality = result.quality
    on = "" if runtime is Runtime.onnxruntime else f" on OpenVINO ({result.precision or 'f32'})"
    show_line(f"{quality.metric} of {result.model}{on}: {percent(quality.value)}")
    is_reference = model is Role.baseline and runtime is Runtime.onnxruntime
    if quality.agreement is not None and not is_reference:
        show_line(f"same class as the baseline: {percent(quality.agreement)}")
    if quality.negative_flips is not None and not is_reference:
        show_line(f"right in the baseline, wrong here: {percent(quality.negative_flips)}")
        show_line(f"wrong in the baseline, right here: {percent(quality.positive_flips)}")
    if quality.pixel_accuracy is not None:
        show_line(f"right pixels: {percent(quality.pixel_accuracy)}")
    if quality.calibration_error is not None:
        show_line(f"expected calibration error: {quality.calibration_error:.4f}")
    show_line(_samples(quality.samples, result.same_samples))


def _run_exits(
    bundle: Path,
    data: str,
    operating_point: str,
    runtime: Runtime,
    precision: Precision | None,
    as_json: bool,
) -> None:
    from edgekd.evaluate import evaluate_exits

    result = evaluate_exits(
        bundle,
        data,
        operating_point,
        runtime=runtime.value,
        precision=None if precision is None else precision.value,
        progress=open_progress(),
    )
    if as_json:
        show_json(result.to_dict())
        return
    quality = result.quality
    on = "" if runtime is Runtime.onnxruntime else f" on OpenVINO ({result.precision or 'f32'})"
    show_line(
        f"{quality.metric} at operating point {operating_point}{on}: {percent(quality.value)}"
    )
    show_line(f"below the model without exits: {result.drop_points + 0.0:.2f} points")
    if quality.agreement is not None:
        show_line(f"same class as the model without exits: {percent(quality.agreement)}")
    if quality.negative_flips is not None:
        show_line(f"right without exits, wrong here: {percent(quality.negative_flips)}")
        show_line(f"wrong without exits, right here: {percent(quality.positive_flips)}")
    for name, share in zip(result.exits, result.shares, strict=True):
        show_line(f"leave at {name}: {percent(share)}")
    show_line(_samples(quality.samples, result.same_samples))


def _samples(count: int, same: bool) -> str:
    which = "the ones" if same else "not the ones"
    return f"on {count} validation samples, {which} that compress used"
