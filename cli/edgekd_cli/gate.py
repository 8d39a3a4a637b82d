"""``edgekd gate``: is a candidate slower, less accurate or larger than what production runs?"""

from __future__ import annotations

import sys
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekd_cli.console import open_progress
from edgekd_cli.gate_output import show_self_test, tell
from edgekd_cli.options import (
    AllowThrottling,
    Batch,
    Device,
    DevicePython,
    Json,
    SshConfig,
    Threads,
    check_finite,
    fraction,
)
from edgekd_cli.output import check_writable, show_json, show_line

if TYPE_CHECKING:
    from edgekd_hardware.ssh import Connection

    from edgekd.bench.protocol import Protocol
    from edgekd.gate.result import GateResult
    from edgekd.gate.run import GateRequest


class OnInconclusive(StrEnum):
    """What a gate that cannot tell means."""

    report = "report"
    passes = "pass"
    fail = "fail"


class Clock(StrEnum):
    """What latencies are compared in."""

    running = "running"
    wall = "wall"


def run(
    baseline: Annotated[
        Path | None, typer.Option(help="What production runs: a bundle or an ONNX file.")
    ] = None,
    candidate: Annotated[
        Path | None, typer.Option(help="What is to replace it: a bundle or an ONNX file.")
    ] = None,
    max_regression: Annotated[
        str, typer.Option(help="How much slower the candidate may be, such as 2%.")
    ] = "2%",
    time_budget: Annotated[
        float | None,
        typer.Option(min=1, help="Seconds for latency.", show_default="60; 300 with --self-test"),
    ] = None,
    threads: Threads = 1,
    batch: Batch = 1,
    clock: Annotated[
        Clock,
        typer.Option(help="running: without the time that other programs held the core."),
    ] = Clock.running,
    seed: Annotated[int, typer.Option(min=0, help="Of random inputs and of the order.")] = 0,
    data: Annotated[
        str | None,
        typer.Option(help="Compare accuracy too, on this data, and time real inputs (bundles)."),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            min=0,
            callback=check_finite,
            help="Points of accuracy that may be lost on --data.",
            show_default="0 with --data",
        ),
    ] = None,
    max_nfr: Annotated[
        float | None,
        typer.Option(
            min=0,
            callback=check_finite,
            help="Per cent of --data that the baseline had right and the candidate has wrong.",
        ),
    ] = None,
    max_size_growth: Annotated[
        str | None, typer.Option(help="How much larger the file may be, such as 0%.")
    ] = None,
    max_memory_growth: Annotated[
        str | None, typer.Option(help="How much more memory it may take, such as 5%.")
    ] = None,
    baseline_python: Annotated[
        str | None,
        typer.Option(
            help="Interpreter of the baseline, to compare versions of a runtime.",
            show_default="this one",
        ),
    ] = None,
    candidate_python: Annotated[
        str | None,
        typer.Option(help="Interpreter of the candidate.", show_default="this one"),
    ] = None,
    on_inconclusive: Annotated[
        OnInconclusive,
        typer.Option(help="Exit 3 (report), 0 (pass) or 1 (fail) if it cannot tell."),
    ] = OnInconclusive.report,
    stored: Annotated[
        Path | None,
        typer.Option(help="Compare with the numbers in this file; weaker than --baseline."),
    ] = None,
    save_baseline: Annotated[
        Path | None, typer.Option(help="Measure --baseline alone and write such a file.")
    ] = None,
    self_test: Annotated[
        bool,
        typer.Option("--self-test", help="Gate --baseline against itself and slower copies."),
    ] = False,
    device: Device = None,
    device_python: DevicePython = "python3",
    ssh_config: SshConfig = None,
    allow_throttling: AllowThrottling = False,
    out: Annotated[
        Path | None, typer.Option(help="Write the result with every sample as JSON.")
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="Write the result as JUnit XML.")] = None,
    github: Annotated[
        bool | None,
        typer.Option(
            "--github/--no-github",
            help="Annotate the run and its summary.",
            show_default="on in GitHub Actions",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Re-measure baseline and candidate here and now; exits 0 pass, 1 regression, 3 no verdict."""
    from edgekd.gate.run import PROTOCOL

    protocol = replace(PROTOCOL, threads=threads, batch=batch, clock=clock.value, seed=seed)
    limit = fraction("--max-regression", max_regression)
    if data is None and (max_drop is not None or max_nfr is not None):
        raise typer.BadParameter("they need --data to be measured on", param_hint="--max-drop")
    for path in filter(None, (out, junit, save_baseline)):
        check_writable(path)
    if self_test:
        subject = _need(baseline or candidate, "--baseline", "--self-test")
        _self_test(subject, limit, protocol, time_budget or 300.0, as_json)
        return
    if save_baseline is not None:
        _save(_need(baseline, "--baseline", "--save-baseline"), protocol, save_baseline)
        return
    new = _need(candidate, "--candidate", "a gate")
    if stored is not None:
        only = [data, max_size_growth, max_memory_growth, baseline, device]
        if any(value is not None for value in only):
            raise typer.BadParameter(
                "it has latencies only, of this machine: leave out --baseline, --data, --device "
                "and the limits of growth",
                param_hint="--stored",
            )
        result = _against_stored(stored, new, limit, on_inconclusive)
    else:
        from edgekd_hardware.ssh import Connection, parse_address
        from edgekd_hardware.watched import unthrottled

        from edgekd.gate.checks import Growth
        from edgekd.gate.run import GateRequest, gate
        from edgekd.metrics import Budget

        request = GateRequest(
            baseline=_need(baseline, "--baseline", "a gate"),
            candidate=new,
            max_regression=limit,
            time_budget_s=time_budget or 60.0,
            protocol=protocol,
            data=data,
            budget=Budget(max_drop, max_nfr),
            growth=Growth(
                fraction("--max-size-growth", max_size_growth),
                fraction("--max-memory-growth", max_memory_growth),
            ),
            on_inconclusive=on_inconclusive.value,
            pythons=_pythons(baseline_python, candidate_python),
        )
        if device is None:
            with unthrottled(allow=allow_throttling):
                result = gate(request, open_progress())
        else:
            board = Connection(parse_address(device), device_python, ssh_config)
            result = _on_board(board, request, allow_throttling)
    tell(result, out, junit, github, as_json)
    raise typer.Exit(result.exit_code)


def _on_board(board: Connection, request: GateRequest, allow_throttling: bool) -> GateResult:
    from edgekd_hardware.board import on_board

    from edgekd.gate.run import gate

    if request.pythons is not None:
        raise typer.BadParameter("not with --device", param_hint="--candidate-python")
    progress = open_progress()
    result, conditions = on_board(
        board,
        lambda place: gate(request, progress, place=place),
        progress=progress,
        allow_throttling=allow_throttling,
    )
    return replace(result, conditions=conditions)


def _pythons(baseline: str | None, candidate: str | None) -> tuple[str, str] | None:
    if baseline is None and candidate is None:
        return None
    return baseline or sys.executable, candidate or sys.executable


def _need(path: Path | None, option: str, who: str) -> Path:
    if path is None:
        raise typer.BadParameter(f"{who} needs it", param_hint=option)
    return path


def _against_stored(
    stored: Path, candidate: Path, limit: float, on_inconclusive: OnInconclusive
) -> GateResult:
    from edgekd.gate.result import GateResult, latency_check
    from edgekd.gate.stored import gate_stored, read_stored
    from edgekd.gate.subject import open_subject

    kept = read_stored(stored)
    subject = open_subject(candidate)
    found = gate_stored(kept, subject.variant, limit, open_progress())
    checks = (latency_check(found),)
    return GateResult(str(stored), str(candidate), checks, found, on_inconclusive.value)


def _save(baseline: Path, protocol: Protocol, path: Path) -> None:
    from edgekd.gate.latency import CANDIDATE, median_ms
    from edgekd.gate.stored import measure_stored
    from edgekd.gate.subject import open_subject

    subject = open_subject(baseline)
    found = measure_stored(subject.variant, str(baseline), protocol, open_progress())
    found.write(path)
    middle = median_ms(found.answers, CANDIDATE)
    show_line(f"{baseline}: {middle:.3f} ms, {len(found.answers)} processes, written to {path}")


def _self_test(
    model: Path, limit: float, protocol: Protocol, seconds: float, as_json: bool
) -> None:
    from edgekd.gate.self_test import self_test
    from edgekd.gate.subject import open_subject

    subject = open_subject(model)
    rows = self_test(
        subject.variant, limit, protocol=protocol, seconds=seconds, progress=open_progress()
    )
    if as_json:
        show_json([row.to_dict() for row in rows])
        return
    show_self_test(rows, limit)
