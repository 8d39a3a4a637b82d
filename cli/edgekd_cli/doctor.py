"""``edgekd doctor``: what works on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from edgekd_cli.options import Json
from edgekd_cli.output import show_json, show_line


def run(
    measure: Annotated[
        bool,
        typer.Option("--measure", help="Also time INT8 against FP32, for some seconds."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Check packages, runtimes and machine; exits 1 when something needed is missing or wrong."""
    from edgekd_hardware.doctor import examine, measured_int8

    findings = [*examine(), *(measured_int8() if measure else ())]
    if as_json:
        show_json([finding.to_dict() for finding in findings])
    else:
        for finding in findings:
            show_line(f"{finding.state:8}{finding.subject:22}{finding.value}")
            if finding.advice:  # a line of its own, so that a command can be copied
                show_line(f"{'':30}-> {finding.advice}")
    if any(finding.state == "missing" for finding in findings):
        raise typer.Exit(1)
