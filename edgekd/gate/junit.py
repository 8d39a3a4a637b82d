"""A gate's result as JUnit XML, which CI systems show test by test."""

from __future__ import annotations

from xml.etree import ElementTree

from edgekd.gate.result import Check, GateResult


def junit_xml(result: GateResult) -> str:
    """Return one test case a check: a regression is a failure, no verdict is an error.

    No verdict is a skipped test where ``--on-inconclusive pass`` was given.
    """
    counts = {"failures": "regression", "errors": "inconclusive"}
    passes = result.on_inconclusive == "pass"
    suite = ElementTree.Element(
        "testsuite",
        name="edgekd gate",
        tests=str(len(result.checks)),
        time=f"{result.latency.seconds:.1f}",
        skipped=str(sum(_skipped(check, passes) for check in result.checks)),
        **{
            name: str(
                sum(
                    check.verdict == verdict and not _skipped(check, passes)
                    for check in result.checks
                )
            )
            for name, verdict in counts.items()
        },
    )
    for check in result.checks:
        _add_case(suite, check, result, passes)
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _skipped(check: Check, passes: bool) -> bool:
    return passes and check.verdict == "inconclusive"


def _add_case(suite: ElementTree.Element, check: Check, result: GateResult, passes: bool) -> None:
    seconds = result.latency.seconds if check.name == "latency" else 0.0
    case = ElementTree.SubElement(
        suite, "testcase", classname="edgekd.gate", name=check.name, time=f"{seconds:.1f}"
    )
    text = (
        f"{result.baseline}: {check.baseline}\n{result.candidate}: {check.candidate}\n"
        f"change {check.change or '-'}, limit {check.limit}\n{check.note}"
    )
    kind = {"regression": "failure", "inconclusive": "skipped" if passes else "error"}
    if check.verdict in kind:
        message = f"{check.name}: {check.verdict}, {check.change}, limit {check.limit}"
        found = ElementTree.SubElement(case, kind[check.verdict], message=message)
        found.text = text
    else:
        ElementTree.SubElement(case, "system-out").text = text
