"""``edgekd doctor``: what works on this machine."""

from __future__ import annotations

import typer

from edgekd_cli.options import Json
from edgekd_cli.output import show_json, show_line


def run(as_json: Json = False) -> None:
    """Check Python, packages, runtimes and processor; exits 1 when something needed is missing."""
    from edgekd_hardware.doctor import examine

    findings = examine()
    if as_json:
        show_json([finding.to_dict() for finding in findings])
    else:
        for finding in findings:
            show_line(f"{finding.state:8}{finding.subject:16}{finding.value}")
            if finding.advice:  # a line of its own, so that a command can be copied
                show_line(f"{'':24}-> {finding.advice}")
    if any(finding.state == "missing" for finding in findings):
        raise typer.Exit(1)
