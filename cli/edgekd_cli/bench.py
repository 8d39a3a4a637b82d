"""``edgekd bench``: the latency of models against each other, on this machine or on a board."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekd_cli.console import open_progress
from edgekd_cli.exits import show_stored_times
from edgekd_cli.options import (
    AllowThrottling,
    Batch,
    Device,
    DevicePython,
    Json,
    SshConfig,
    Threads,
)
from edgekd_cli.output import check_writable, show_json, show_line, show_table, write_json

if TYPE_CHECKING:
    from edgekd.bench import LatencyReport, Variant

# How a runtime is named on the command line -> runtime and precision of a Variant.
RUNTIMES = {
    "onnxruntime": ("onnxruntime", None),
    "openvino": ("openvino", "f32"),
    "openvino:bf16": ("openvino", "bf16"),
}


def run(
    models: Annotated[list[Path], typer.Argument(help="Bundles or ONNX files.")],
    baseline: Annotated[
        str | None,
        typer.Option(help="Model that the others are compared with.", show_default="the original"),
    ] = None,
    runtime: Annotated[
        list[str] | None,
        typer.Option(
            help=f"{', '.join(RUNTIMES)}; repeat it to time every model on each.",
            show_default="onnxruntime",
        ),
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="Fresh processes, one by one.")] = 5,
    rounds: Annotated[int, typer.Option(min=1, help="Timed calls per model and process.")] = 200,
    threads: Threads = 1,
    batch: Batch = 1,
    device: Device = None,
    device_python: DevicePython = "python3",
    ssh_config: SshConfig = None,
    allow_throttling: AllowThrottling = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the report with every sample, as JSON.", dir_okay=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Time every model of a bundle (or ONNX files) against the original, in alternating calls."""
    from edgekd_hardware.throttling import describe

    from edgekd.bench import Protocol, measure
    from edgekd.runtime.trust import read_trusted_manifest

    runtimes = list(dict.fromkeys(runtime or ["onnxruntime"]))
    found = collect(models, only_onnxruntime=runtimes == ["onnxruntime"])
    original = next((name for name in found if name.endswith("baseline")), next(iter(found)))
    timed = on_runtimes(found, runtimes)
    if baseline is not None and baseline not in timed:
        raise typer.BadParameter(
            f"{baseline!r} is not one of {'; '.join(timed)}", param_hint="--baseline"
        )
    first = next(name for name, variant in timed.items() if variant.path == found[original])
    protocol = Protocol(
        threads=threads,
        batch=batch,
        processes=processes,
        rounds=rounds,
        primers=int(runtimes != ["onnxruntime"]),
    )
    if out is not None:
        check_writable(out)
    if device is None:
        report = measure(
            timed, baseline=baseline or first, protocol=protocol, progress=open_progress()
        )
    else:
        from edgekd_hardware.board import measure_on
        from edgekd_hardware.ssh import Connection, parse_address

        report = measure_on(
            Connection(parse_address(device), device_python, ssh_config),
            timed,
            baseline=baseline or first,
            protocol=protocol,
            progress=open_progress(),
            allow_throttling=allow_throttling,
        )
    if out is not None:
        write_json(out, report.to_dict(samples=True))
    if as_json:
        show_json(report.to_dict(samples=False))
    else:
        _show(report)
        if report.conditions:
            show_line(describe(report.machine, report.conditions))
        for folder in filter(Path.is_dir, models):
            show_stored_times(read_trusted_manifest(folder).data)


def on_runtimes(models: Mapping[str, Path], runtimes: Sequence[str]) -> dict[str, Variant]:
    """Pair every model with every runtime; names say the runtime where there are several."""
    from edgekd.bench import Variant

    unknown = [name for name in runtimes if name not in RUNTIMES]
    if unknown:
        raise typer.BadParameter(
            f"{unknown[0]!r} is not one of {', '.join(RUNTIMES)}", param_hint="--runtime"
        )
    return {
        f"{model} on {runtime}" if len(runtimes) > 1 else model: Variant(path, *RUNTIMES[runtime])
        for model, path in models.items()
        for runtime in runtimes
    }


def collect(paths: Sequence[Path], *, only_onnxruntime: bool = True) -> dict[str, Path]:
    """Name the models in bundles (checked first) and ONNX files.

    The models of a single bundle are named by their roles, otherwise by where they come from.
    Unless they run on ONNX Runtime only, bundles for another runtime are refused.
    """
    from edgekd.errors import MeasurementError

    found: dict[str, Path] = {}
    for path in paths:
        for name, file in _models_at(path, len(paths) == 1, only_onnxruntime):
            if name in found and found[name] != file:
                raise MeasurementError(f"two models would be called {name!r}; rename one of them")
            found[name] = file
    return found


def _models_at(path: Path, short: bool, only_onnxruntime: bool) -> Iterator[tuple[str, Path]]:
    from edgekd.errors import MeasurementError
    from edgekd.runtime.bundle import verify_models
    from edgekd.runtime.trust import read_trusted_manifest

    if not path.is_dir():
        yield path.stem if short else str(path), path
        return
    manifest = read_trusted_manifest(path)
    verify_models(path, manifest)
    written_for = manifest.target["runtime"]
    if not only_onnxruntime and written_for != "onnxruntime":
        raise MeasurementError(f"{path}: its graph is for {written_for}; leave --runtime out")
    for role, file in manifest.models.items():
        yield role if short else f"{path}:{role}", path / file


def _show(report: LatencyReport) -> None:
    rows = []
    for name, model in report.models.items():
        if model.ratio is None or model.ratio_low is None or model.ratio_high is None:
            speed, spread = "1.00x", ""
        else:
            speed = f"{model.ratio:.2f}x"
            spread = f"{model.ratio_low:.2f} to {model.ratio_high:.2f}"
        p90 = "-" if model.p90_ms is None else f"{model.p90_ms:.3f} ms"
        rows.append((name, f"{model.median_ms:.3f} ms", p90, speed, spread))
    show_table(("model", ">median", ">90 %", ">speed", "range"), rows)
    protocol = report.protocol
    show_line(
        f"{report.runtime}, batch {protocol.batch}, {protocol.threads} thread(s), "
        f"{protocol.processes} processes x {protocol.rounds} alternating calls"
        f"{', each after an untimed one of the same model' if protocol.primers else ''}; "
        f"speed against {report.baseline}; range: {report.interval.removeprefix('range of ')}"
    )
