"""Early exits of a manifest, for people: operating points, exits and segments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekd_cli.output import show_line, show_table

Record = Mapping[str, Any]


def show_exits(manifest: Record) -> None:
    """Print the operating points, the exits, and which point ``load`` takes."""
    cascade = manifest.get("cascade")
    if not cascade:
        return
    from edgekd.report.exits import (
        EXIT_COLUMNS,
        exit_rows,
        loaded_line,
        point_columns,
        point_rows,
        shown_point,
    )

    facts = manifest.get("early_exits") or {}
    show_table(
        point_columns(cascade),
        point_rows(cascade, facts),
        title="Early exits: drop and ratio are against the same model without exits",
    )
    name = shown_point(cascade)
    times = "" if name is None else f"; 50 % and 99 % of the calls that leave there at {name}"
    show_table(EXIT_COLUMNS, exit_rows(cascade, facts), title=f"Exits{times}")
    show_line(loaded_line(cascade))


def show_segments(manifest: Record) -> None:
    """Print the segments: what each receives, and how much of it runs on integers."""
    cascade = manifest.get("cascade")
    if not cascade:
        return
    show_table(
        ("segment", "receives", ">INT8 layers", ">50 %", ">99 %"),
        [_segment(entry) for entry in cascade["segments"]],
        title="Segments; times are of one call with a batch of 1",
    )


def _segment(entry: Record) -> tuple[str, ...]:
    link, kernels = entry["link"], entry.get("kernels")
    latency = entry.get("latency_ms") or {}
    return (
        entry["file"],
        "the model's inputs" if link is None else _tensor(link),
        f"{kernels['integer_layers']} of {kernels['layers_total']}" if kernels else "-",
        *(f"{latency[key]:.3f} ms" if latency else "-" for key in ("p50", "p99")),
    )


def _tensor(link: Record) -> str:
    sizes = ", ".join("N" if size is None else str(size) for size in link["shape"])
    return f"{link['name']}: {link['dtype']}[{sizes}]"


def show_stored_times(manifest: Record) -> None:
    """Print in a line for each operating point the mean latency that ``compress`` measured."""
    cascade = manifest.get("cascade")
    for name, point in (cascade or {}).get("operating_points", {}).items():
        time = (point.get("measured") or {}).get("latency")
        if time:
            show_line(
                f"early exits at {name}, measured by compress: mean {time['mean_ms']:.3f} ms, "
                f"{time['ratio']:.2f}x of the model without exits ({time['ratio_low']:.2f} to "
                f"{time['ratio_high']:.2f})"
            )
