"""``edgekd gate``: is a candidate slower, less accurate or larger than what production runs?"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekd_cli.console import open_progress
from edgekd_cli.options import Json, check_finite, fraction
from edgekd_cli.output import percent, show_json, show_line, show_table

if TYPE_CHECKING:
    from edgekd.bench.protocol import Protocol
    from edgekd.gate.result import GateResult
    from edgekd.gate.self_test import SelfTestRow

EXIT_REGRESSION = 1


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
    threads: Annotated[int, typer.Option(min=1, help="Threads of one call.")] = 1,
    batch: Annotated[int, typer.Option(min=1, help="Samples in one call.")] = 1,
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
    from dataclasses import replace

    from edgekd.gate.run import PROTOCOL

    protocol = replace(PROTOCOL, threads=threads, batch=batch, clock=clock.value, seed=seed)
    limit = fraction("--max-regression", max_regression)
    if data is None and (max_drop is not None or max_nfr is not None):
        raise typer.BadParameter("they need --data to be measured on", param_hint="--max-drop")
    for path in filter(None, (out, junit, save_baseline)):
        _check_place(path)
    if self_test:
        subject = _need(baseline or candidate, "--baseline", "--self-test")
        _self_test(subject, limit, protocol, time_budget or 300.0, as_json)
        return
    if save_baseline is not None:
        _save(_need(baseline, "--baseline", "--save-baseline"), protocol, save_baseline)
        return
    new = _need(candidate, "--candidate", "a gate")
    if stored is not None:
        only = [data, max_size_growth, max_memory_growth, baseline]
        if any(value is not None for value in only):
            raise typer.BadParameter(
                "it has latencies only: leave out --baseline, --data and the limits of growth",
                param_hint="--stored",
            )
        result = _against_stored(stored, new, limit, on_inconclusive)
    else:
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
        result = gate(request, open_progress())
    _tell(result, out, junit, github, as_json)
    raise typer.Exit(result.exit_code)


def _pythons(baseline: str | None, candidate: str | None) -> tuple[str, str] | None:
    if baseline is None and candidate is None:
        return None
    return baseline or sys.executable, candidate or sys.executable


def _need(path: Path | None, option: str, who: str) -> Path:
    if path is None:
        raise typer.BadParameter(f"{who} needs it", param_hint=option)
    return path


def _tell(
    result: GateResult, out: Path | None, junit: Path | None, github: bool | None, as_json: bool
) -> None:
    """Print the result, and write it where it was asked for."""
    from edgekd.gate.github import step_summary, workflow_commands
    from edgekd.gate.junit import junit_xml

    if out is not None:
        _write(out, json.dumps(result.to_dict(samples=True)))
    if junit is not None:
        _write(junit, junit_xml(result))
    if as_json:
        show_json(result.to_dict(samples=False))
    else:
        _show(result)
    if github if github is not None else os.environ.get("GITHUB_ACTIONS") == "true":
        for line in workflow_commands(result):
            typer.echo(line, err=as_json)  # stdout is one JSON document then
        summary = os.environ.get("GITHUB_STEP_SUMMARY")
        if summary:
            with Path(summary).open("a", encoding="utf-8") as file:
                file.write(step_summary(result))


def _check_place(path: Path) -> None:
    """Refuse a file that could not be written, before a minute of measuring."""
    from edgekd.errors import MeasurementError

    existing = next(folder for folder in path.absolute().parents if folder.exists())
    if path.is_dir() or not existing.is_dir() or not os.access(existing, os.W_OK):
        raise MeasurementError(f"{path} cannot be written; give another file")


def _write(path: Path, text: str) -> None:
    from edgekd.cache import replace_file
    from edgekd.errors import MeasurementError

    try:
        replace_file(path, text.encode("utf-8"))
    except OSError as error:
        raise MeasurementError(f"{path} cannot be written: {error.strerror}") from error


def _show(result: GateResult) -> None:
    rows = [
        (check.name, check.verdict, check.baseline, check.candidate, check.change, check.limit)
        for check in result.checks
    ]
    show_table(("check", "verdict", ">baseline", ">candidate", ">change", ">limit"), rows)
    for check in result.checks:
        if check.note:
            show_line(f"{check.name}: {check.note}")
    found = result.latency
    protocol = found.protocol
    inputs = f"batch {protocol.batch}, {protocol.threads} thread(s)"
    show_line(
        f"{len(found.log_ratios)} processes x {protocol.rounds} calls, {found.clock} time, "
        f"{found.seconds:.0f} s; {found.runtime}, {inputs}; each bound is wrong in "
        f"{100 * found.error:.2g} % at most"
    )
    show_line(f"verdict: {result.verdict}")


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
    _show_self_test(rows, limit)


def _show_self_test(rows: Sequence[SelfTestRow], limit: float) -> None:
    table = [
        (
            "itself" if row.slower == 0 else f"slowed by {row.slower:.0%}",
            f"{100 * row.measured_slower:+.2f} %",
            f"{100 * row.spread:.2f} %",
            f"{percent(row.rates.found)} ({percent(row.rates.low)} to {percent(row.rates.high)})",
            percent(row.rates.passed),
            percent(row.rates.inconclusive),
            f"{row.rates.processes:.1f} of {row.rates.measured}",
        )
        for row in rows
    ]
    columns = ("copy", ">measured", ">spread", ">called a regression", ">passed", ">no verdict")
    show_table((*columns, ">processes a gate"), table)
    show_line(
        f"gates with --max-regression {100 * limit:g}%, drawn from the measured processes: a copy "
        "slowed by less is a false alarm when called a regression, one slowed by more is found; "
        "in brackets: 95 % interval by resampling the processes"
    )
