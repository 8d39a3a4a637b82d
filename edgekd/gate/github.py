"""A gate's result for GitHub Actions: annotations on the run, and a table in its summary.

The forms are those of GitHub's documentation, "Workflow commands for GitHub Actions".
"""

from __future__ import annotations

from edgekd.gate.decision import Verdict
from edgekd.gate.result import Check, GateResult

_LEVEL: dict[Verdict, str] = {
    "regression": "error",
    "inconclusive": "warning",
    "improvement": "notice",
    "pass": "notice",
}


def workflow_commands(result: GateResult) -> list[str]:
    """Return one workflow command a check."""
    return [_command(check) for check in result.checks]


def _command(check: Check) -> str:
    words = f"{check.verdict}: {check.baseline} -> {check.candidate}"
    if check.change:
        words += f", {check.change}"
    words += f", limit {check.limit}"
    if check.note:
        words += f"; {check.note}"
    title = _escaped(f"edgekd gate: {check.name}", property_value=True)
    return f"::{_LEVEL[check.verdict]} title={title}::{_escaped(words)}"


def _escaped(text: str, *, property_value: bool = False) -> str:
    """Encode what would end the command or the property."""
    pairs = [("%", "%25"), ("\r", "%0D"), ("\n", "%0A")]
    if property_value:
        pairs += [(":", "%3A"), (",", "%2C")]
    for plain, code in pairs:
        text = text.replace(plain, code)
    return text


def step_summary(result: GateResult) -> str:
    """Return a Markdown table for the file that ``GITHUB_STEP_SUMMARY`` names."""
    rows = [
        "| check | verdict | baseline | candidate | change | limit |",
        "|---|---|---|---|---|---|",
        *(_row(check) for check in result.checks),
    ]
    latency = result.latency
    foot = (
        f"{len(latency.log_ratios)} processes in {latency.seconds:.0f} s, {latency.clock} time, "
        f"{latency.runtime}, {latency.machine.get('processor', '')}"
    )
    title = f"### edgekd gate: {result.verdict}"
    names = f"`{_cell(result.candidate)}` against `{_cell(result.baseline)}`"
    return "\n".join([title, "", names, "", *rows, "", foot, ""])


def _row(check: Check) -> str:
    cells = (check.name, check.verdict, check.baseline, check.candidate, check.change, check.limit)
    return "| " + " | ".join(map(_cell, cells)) + " |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("`", "'")
