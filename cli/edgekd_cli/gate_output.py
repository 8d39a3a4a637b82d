"""How ``edgekd gate`` tells its result: to people, to programs and to CI."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edgekd_cli.output import percent, show_json, show_line, show_table, write_json, write_text

if TYPE_CHECKING:
    from edgekd.gate.result import GateResult
    from edgekd.gate.self_test import SelfTestRow


def tell(
    result: GateResult, out: Path | None, junit: Path | None, github: bool | None, as_json: bool
) -> None:
    """Print the result, and write it where it was asked for."""
    from edgekd.gate.github import step_summary, workflow_commands
    from edgekd.gate.junit import junit_xml

    if out is not None:
        write_json(out, result.to_dict(samples=True))
    if junit is not None:
        write_text(junit, junit_xml(result))
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


def _show(result: GateResult) -> None:
    from edgekd_hardware.throttling import describe

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
    if result.conditions:
        show_line(describe(result.latency.machine, result.conditions))
    show_line(f"verdict: {result.verdict}")


def show_self_test(rows: Sequence[SelfTestRow], limit: float) -> None:
    """Print how often gates end how, a row for each kind of copy."""
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
        "in brackets: 95 % interval by resampling the processes, which cannot show what none of "
        "them came near"
    )
