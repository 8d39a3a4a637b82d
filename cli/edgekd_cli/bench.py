"""``edgekd bench``: the latency of models against each other, on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekd_cli.console import open_progress
from edgekd_cli.options import Json
from edgekd_cli.output import show_json, show_line, show_table

if TYPE_CHECKING:
    from edgekd.bench import LatencyReport


def run(
    models: Annotated[list[Path], typer.Argument(help="Bundles or ONNX files.")],
    baseline: Annotated[
        str | None,
        typer.Option(help="Model that the others are compared with.", show_default="the original"),
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="Fresh processes, one by one.")] = 5,
    rounds: Annotated[int, typer.Option(min=1, help="Timed calls per model and process.")] = 200,
    threads: Annotated[int, typer.Option(min=1, help="Threads of one call.")] = 1,
    batch: Annotated[int, typer.Option(min=1, help="Samples in one call.")] = 1,
    as_json: Json = False,
) -> None:
    """Time every model of a bundle (or ONNX files) against the original, in alternating calls."""
    from edgekd.bench import Protocol, measure

    found = collect(models)
    if baseline is not None and baseline not in found:
        raise typer.BadParameter(
            f"{baseline!r} is not one of {', '.join(found)}", param_hint="--baseline"
        )
    first = next((name for name in found if name.endswith("baseline")), next(iter(found)))
    protocol = Protocol(threads=threads, batch=batch, processes=processes, rounds=rounds)
    report = measure(found, baseline=baseline or first, protocol=protocol, progress=open_progress())
    if as_json:
        show_json(report.to_dict(samples=False))
    else:
        _show(report)


def collect(paths: Sequence[Path]) -> dict[str, Path]:
    """Name the models in bundles (checked first) and ONNX files.

    The models of a single bundle are named by their roles, otherwise by where they come from.
    """
    from edgekd.errors import MeasurementError

    found: dict[str, Path] = {}
    for path in paths:
        for name, file in _models_at(path, short=len(paths) == 1):
            if name in found and found[name] != file:
                raise MeasurementError(f"two models would be called {name!r}; rename one of them")
            found[name] = file
    return found


def _models_at(path: Path, *, short: bool) -> Iterator[tuple[str, Path]]:
    from edgekd.runtime.bundle import read_manifest, verify

    if not path.is_dir():
        yield path.stem if short else str(path), path
        return
    manifest = read_manifest(path)
    verify(path, manifest)
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
        f"{protocol.processes} processes x {protocol.rounds} alternating calls; "
        f"speed against {report.baseline}; range: {report.interval.removeprefix('range of ')}"
    )
