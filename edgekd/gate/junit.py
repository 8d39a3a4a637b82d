"""A gate's result as JUnit XML, which CI systems show test by test."""

from __future__ import annotations

from xml.etree import ElementTree

from edgekd.gate.result import Check, GateResult


def junit_xml(result: GateResult) -> str:
    """Return one test case a check: a regression is a failure, no verdict is an error.

    No verdict is a skipped test where ``--on-inconclusive pass`` was given.
    """
    passes = result.on_inconclusive == "pass"
    outcomes = [_outcome(check, passes) for check in result.checks]
    suite = ElementTree.Element(
        "testsuite",
        name="edgekd gate",
        tests=str(len(outcomes)),
        failures=str(outcomes.count("failure")),
        errors=str(outcomes.count("error")),
        skipped=str(outcomes.count("skipped")),
        time=f"{result.latency.seconds:.1f}",
    )
    for check, outcome in zip(result.checks, outcomes, strict=True):
        _add_case(suite, check, outcome, result)
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _outcome(check: Check, passes: bool) -> str:
    """Return JUnit's word for a verdict."""
    if check.verdict == "regression":
        return "failure"
    if check.verdict == "inconclusive":
        return "skipped" if passes else "error"
    return "passed"


def _add_case(suite: ElementTree.Element, check: Check, outcome: str, result: GateResult) -> None:
    seconds = result.latency.seconds if check.name == "latency" else 0.0
    case = ElementTree.SubElement(
        suite, "testcase", classname="edgekd.gate", name=check.name, time=f"{seconds:.1f}"
    )
    text = (
        f"{result.baseline}: {check.baseline}\n{result.candidate}: {check.candidate}\n"
        f"change {check.change or '-'}, limit {check.limit}\n{check.note}"
    )
    if outcome == "passed":
        ElementTree.SubElement(case, "system-out").text = text
        return
    message = f"{check.name}: {check.verdict}, {check.change}, limit {check.limit}"
    ElementTree.SubElement(case, outcome, message=message).text = text
