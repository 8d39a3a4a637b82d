"""What early exits came to, in rows and words for people, from the manifest's record of them.

Bundles whose manifest says less than ``compress`` writes have dashes in these rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekd.report.plots import exit_plot

Record = Mapping[str, Any]

FULL = "full"
EXIT_COLUMNS = (
    "exit",
    "after",
    "head",
    ">alone",
    ">temperature",
    ">cost up to it",
    ">50 %",
    ">99 %",
)


def point_columns(cascade: Record) -> tuple[str, ...]:
    """Return the columns of ``point_rows``; ``>`` marks what is right-aligned.

    Long ones have a line break, so that they leave room for the names of the points.
    """
    stops = " / ".join([exit["name"].removeprefix("exit_") for exit in cascade["exits"]])
    figures = (">top-1", ">drop", ">mean", ">ratio (range)", ">expected")
    return ("operating point", "may lose\n(promised)", *figures, f"leave at exit\n{stops} / end")


def point_rows(cascade: Record, facts: Record) -> list[tuple[str, ...]]:
    """Return a row for each operating point. ``facts`` is the manifest's ``early_exits``."""
    rows: list[tuple[str, ...]] = []
    for name, point in cascade["operating_points"].items():
        measured, time = point.get("measured") or {}, _latency(cascade, name)
        expected = point.get("expected_cost", facts.get("expected_full") if name == FULL else None)
        shares = [f"{100 * share:.0f}" for share in measured.get("shares", ())]
        spread = time and f"{time['ratio']:.2f}x ({time['ratio_low']:.2f}-{time['ratio_high']:.2f})"
        rows.append(
            (
                name,
                _allowed(name, point),
                _percent(measured.get("accuracy")),
                _points(measured.get("drop_points")),
                _milliseconds(time.get("mean_ms")),
                spread or "-",
                _cost(expected, facts.get("unit", "ms")),
                f"{' / '.join(shares)} %" if shares else "-",
            )
        )
    return rows


def _allowed(name: str, point: Record) -> str:
    """Say what a point may lose, in points of accuracy, and how surely it keeps to that."""
    if name == FULL:
        return "0 (exact)"
    most = f"{point['max_drop']:g} " if "max_drop" in point else ""
    if not point.get("certified"):
        return f"{most}(no)"
    return f"{most}({100 * point['certainty']:g} %)" if "certainty" in point else f"{most}(yes)"


def exit_rows(cascade: Record, facts: Record) -> list[tuple[str, ...]]:
    """Return a row for each kept exit, one for the end, and one for the model without exits.

    Percentiles are of the calls that leave there at the point that ``shown_point`` names.
    """
    known = {entry["name"]: entry for entry in facts.get("candidates", ())}
    prices = dict(zip(facts.get("kept", ()), facts.get("costs", ()), strict=False))
    name, unit = shown_point(cascade), facts.get("unit", "ms")
    timed = {} if name is None else _latency(cascade, name)
    by_exit = list(timed.get("by_exit", ()))
    # where no sample goes to the end, the last entries are missing
    by_exit += [{}] * (len(cascade["exits"]) + 1 - len(by_exit))
    rows: list[tuple[str, ...]] = []
    for exit, time in zip(cascade["exits"], by_exit, strict=False):
        about = known.get(exit["name"], {})
        own = exit["name"], exit["after"], exit["head"], _percent(about.get("accuracy"))
        cost = f"{exit['temperature']:.2f}", _cost(prices.get(exit["name"]), unit)
        rows.append((*own, *cost, *_tails(time.get("p50_ms"), time.get("p99_ms"))))
    last, whole = by_exit[-1], _percent(facts.get("full_accuracy"))
    costs = [_cost(facts.get(key), unit) for key in ("expected_full", "without_exits")]
    tails = _tails(last.get("p50_ms"), last.get("p99_ms"))
    rows.append(("end", "", "", whole, "", costs[0], *tails))
    tails = _tails(timed.get("model_mean_ms"), timed.get("model_p99_ms"))
    rows.append(("model without exits", "", "", whole, "", costs[1], *tails))
    return rows


def _tails(p50: float | None, p99: float | None) -> tuple[str, str]:
    return _milliseconds(p50), _milliseconds(p99)


def shown_point(cascade: Record) -> str | None:
    """Return the point whose times by exit are shown: the default, or the first at which any leave.

    None where nothing was timed.
    """
    timed = [name for name in cascade["operating_points"] if _latency(cascade, name)]
    leaving = [name for name in timed if name != FULL] or timed
    default = cascade["default"]
    return default if default in leaving else next(iter(leaving), None)


def loaded_line(cascade: Record) -> str:
    """Say which operating point ``load`` takes; at ``full`` it opens the model without exits."""
    name = cascade["default"]
    point = cascade["operating_points"][name]
    if name != FULL:
        sure = f" with {100 * point['certainty']:g} % certainty" if "certainty" in point else ""
        most = f": at most {point['max_drop']:g} points lost{sure}" if "max_drop" in point else ""
        return f"load() takes the operating point {name}{most}"
    others = [other for other in cascade["operating_points"] if other != FULL]
    more = f', exits with load(bundle, operating_point="{others[0]}")' if others else ""
    return f"load() takes the model without exits, since no first point is promised{more}"


def not_promised(cascade: Record) -> list[str]:
    """Say of each point without a promise what was missing, and what would do."""
    lines = []
    for name, point in cascade["operating_points"].items():
        if point.get("certified", True):
            continue
        needed = point.get("samples_needed")
        more = (
            f"about {needed:,} samples like these would do"
            if needed
            else "no number of samples like these would do, since its loss is not below the budget"
        )
        estimate = point.get("estimate") or {}
        loss = (
            f"; judged on samples that did not choose it, it loses {estimate['loss_points']:.2f}"
            f" points (standard error {estimate['standard_error_points']:.2f})"
            if "loss_points" in estimate
            else ""
        )
        lines.append(
            f"{name}: a loss of at most {point['max_drop']:g} points cannot be promised with "
            f"{100 * point['certainty']:g} % certainty from {point['samples']:,} samples; {more}"
            f"{loss}"
        )
    return lines


def held_promises(cascade: Record) -> list[str]:
    """Say of each certified point what is promised, and on how many samples it was tested."""
    return [
        f"{name}: at most {point['max_drop']:g} points below the model without exits, with "
        f"{100 * point['certainty']:g} % certainty, tested on {point['tested_on']:,} samples, on "
        f"which it lost {point['loss_points']:.2f}"
        for name, point in cascade["operating_points"].items()
        if point.get("certified") and "tested_on" in point
    ]


def exits_of(cascade: Record | None, facts: Record) -> dict[str, Any]:
    """Return what the page shows of early exits; ``plot`` is SVG text, the rest plain text.

    ``cascade`` is None where no exit was worth having; then only the candidates are shown.
    """
    unit = facts.get("unit", "ms")
    shown: dict[str, Any] = {
        "candidates": [
            (
                entry["name"],
                entry["after"],
                entry["head"],
                _percent(entry["accuracy"]),
                _cost(entry["cost"], unit),
                "yes" if entry["name"] in facts.get("kept", ()) else "no",
            )
            for entry in facts["candidates"]
        ],
        "full_accuracy": _percent(facts["full_accuracy"]),
        "samples": facts["samples"],
        "chosen_on": facts["chosen_on"],
        "unit": unit,
        "kept": cascade is not None,
    }
    if cascade is None:
        return shown
    point = shown_point(cascade)
    return {
        **shown,
        "confidence": cascade["confidence"],
        "default": cascade["default"],
        "point_columns": point_columns(cascade),
        "points": point_rows(cascade, facts),
        "exit_columns": EXIT_COLUMNS,
        "exits": exit_rows(cascade, facts),
        "promised": held_promises(cascade),
        "not_promised": not_promised(cascade),
        "loaded": loaded_line(cascade),
        "point": point,
        "latency": None if point is None else _latency(cascade, point),
        "single_file_point": facts.get("single_file_point"),
        "plot": exit_plot(cascade["operating_points"], facts),
    }


def _latency(cascade: Record, name: str) -> Record:
    found: Record = (cascade["operating_points"][name].get("measured") or {}).get("latency") or {}
    return found


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.2f} %"


def _points(points: float | None) -> str:
    return "-" if points is None else f"{points + 0.0:.2f}"


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f} ms"


def _cost(value: float | None, unit: str) -> str:
    """Return a time, or a share of what the whole model computes."""
    if value is None or unit == "ms":
        return _milliseconds(value)
    return f"{100 * value:.1f} %"
