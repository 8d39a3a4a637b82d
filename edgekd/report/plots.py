"""Plots as SVG text, to be put into the report page."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

_INK, _BAR, _ACCENT = "#1f2933", "#9fb3c8", "#0967d2"


def stage_plot(stages: Sequence[Mapping[str, Any]]) -> str:
    """Return accuracy, latency and size after every stage as one SVG of three panels.

    ``stages`` are the manifest's records. Latency is the time relative to the original (1.0),
    measured by alternating calls; a stage without a measurement has no bar.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 2.9), layout="constrained")
    panels = figure.subplots(1, 3)
    names = [str(stage["name"]) for stage in stages]
    metric = str(stages[-1]["metric"])
    _bars(panels[0], names, [stage["accuracy"] for stage in stages], metric, "{:.4f}")
    _bars(panels[1], names, [_relative_time(s) for s in stages], "time / original", "{:.2f}")
    kib = [stage["model_bytes"] / 1024 for stage in stages]
    _bars(panels[2], names, kib, "ONNX file, KiB", "{:,.0f}")
    return _svg(figure)


def sensitivity_plot(details: Mapping[str, Any]) -> str:
    """Return the damage of every layer as an SVG of horizontal bars, the largest on top.

    ``details`` are those of a stage that measured it. Layers that went back to float have another
    colour. The axis is logarithmic; a layer without any damage has no bar.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    rows, returned = details["sensitivity"]["rows"], set(details.get("returned_layers") or ())
    figure = Figure(figsize=(9.6, 0.8 + 0.19 * len(rows)), layout="constrained")
    axes = figure.subplots()
    names, damages = [row["layer"] for row in rows], [row["damage"] for row in rows]
    colors = [_ACCENT if name in returned else _BAR for name in names]
    axes.barh(range(len(rows)), damages, color=colors, height=0.7)
    axes.set_yticks(range(len(rows)), names)
    axes.invert_yaxis()
    axes.margins(y=0.01)
    if any(damage > 0 for damage in damages):
        axes.set_xscale("log")
    axes.set_title(f"{details['sensitivity']['measure']}, one layer quantized", fontsize=9)
    if returned:
        kinds = {"went back to float": _ACCENT, "stays quantized": _BAR}
        handles = [Patch(color=color, label=label) for label, color in kinds.items()]
        axes.legend(handles=handles, fontsize=8, loc="lower right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=7, colors=_INK)
    return _svg(figure)


def width_plot(groups: Sequence[Mapping[str, Any]]) -> str:
    """Return the width of every group before and after pruning as an SVG of horizontal bars.

    ``groups`` are those of a prune stage's details. A bar is as long as the group has outputs; the
    numbers beside it are units, which for attention are heads.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    figure = Figure(figsize=(9.6, 0.8 + 0.19 * len(groups)), layout="constrained")
    axes = figure.subplots()
    places = range(len(groups))
    before = [group["before"] * group["rows"] for group in groups]
    after = [group["after"] * group["rows"] for group in groups]
    drawn = axes.barh(places, before, color=_BAR, height=0.7)
    axes.barh(places, after, color=_ACCENT, height=0.7)
    labels = [_units(group) for group in groups]
    axes.bar_label(drawn, labels, fontsize=7, color=_INK, padding=3)
    axes.set_yticks(places, [_shortened(group["name"]) for group in groups])
    axes.invert_yaxis()
    axes.margins(x=0.2, y=0.01)
    axes.set_title("outputs of each group", fontsize=9, color=_INK)
    handles = [Patch(color=_ACCENT, label="stays"), Patch(color=_BAR, label="taken out")]
    figure.legend(handles=handles, fontsize=8, loc="outside lower right", ncols=2, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=7, colors=_INK)
    return _svg(figure)


def exit_plot(points: Mapping[str, Mapping[str, Any]], facts: Mapping[str, Any]) -> str:
    """Return accuracy against expected cost of the best thresholds as an SVG, with marked points.

    ``points`` are a cascade's operating points, ``facts`` the manifest's ``early_exits``. All is as
    on the samples that thresholds were chosen or tested on. The curve ends at twice the largest
    loss that a point may have, since what is below would leave no room for the rest.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(9.6, 4.0), layout="constrained")
    axes = figure.subplots()
    whole = facts["full_accuracy"]
    most = 2 * max(point["max_drop"] for point in facts["wanted"]) / 100
    curve = [point for point in facts["curve"] if point["mean_loss"] <= most]
    heights = [whole - point["mean_loss"] for point in curve]
    axes.plot([p["cost"] for p in curve], heights, color=_BAR, marker=".", markersize=4)
    axes.axhline(whole, color=_BAR, linewidth=0.8, linestyle=":")
    axes.axvline(facts["without_exits"], color=_BAR, linewidth=0.8, linestyle=":")
    marks = [("model without exits", facts["without_exits"], whole, "s", _INK)]
    for name, point in points.items():
        cost = point.get("expected_cost", facts["expected_full"])
        height = whole - point.get("loss_points", 0.0) / 100
        marks.append((name, cost, height, "o" if point["certified"] else "X", _ACCENT))
    for place, (name, cost, height, marker, color) in enumerate(marks):
        axes.plot([cost], [height], marker, color=color, markersize=7, label=f"{place + 1} {name}")
        axes.annotate(
            str(place + 1),
            (cost, height),
            xytext=(7 * (place - len(points) / 2), 8),  # beside each other where marks coincide
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=_INK,
        )
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=1))
    unit = "ms" if facts["unit"] == "ms" else "share of the whole model's"
    axes.set_xlabel(f"expected cost of a sample, {unit}", fontsize=8, color=_INK)
    axes.set_title("top-1 against expected cost", fontsize=9, color=_INK)
    axes.margins(x=0.08, y=0.12)
    figure.legend(fontsize=8, loc="outside lower center", ncols=4, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, colors=_INK)
    return _svg(figure)


def _units(group: Mapping[str, Any]) -> str:
    if group["after"] == group["before"]:
        return f"all {group['before']} {group['kind']}"
    if group["after"] == 0:
        return f"none of {group['before']} {group['kind']}: its block is gone"
    return f"{group['after']} of {group['before']} {group['kind']}"


def _shortened(name: str, most: int = 52) -> str:
    """Leave out the middle of a long name: both ends tell layers apart."""
    half = (most - 3) // 2
    return name if len(name) <= most else f"{name[:half]}...{name[-half:]}"


def _svg(figure: Any) -> str:
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    text = io.StringIO()
    FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def _relative_time(stage: Mapping[str, Any]) -> float | None:
    """Return the stage's latency over the original's, or None if it was not measured."""
    if stage["name"] == "original":
        return 1.0
    if not stage["latency"]:
        return None
    return 1.0 / float(stage["latency"]["models"][stage["name"]]["ratio"])


def _bars(
    axes: Any, names: list[str], values: Sequence[float | None], title: str, form: str
) -> None:
    heights = [0.0 if value is None else value for value in values]
    colors = [_BAR] * (len(names) - 1) + [_ACCENT]
    drawn = axes.bar(names, heights, color=colors, width=0.6)
    labels = ["not measured" if value is None else form.format(value) for value in values]
    axes.bar_label(drawn, labels, fontsize=8, color=_INK, padding=2)
    axes.set_title(title, fontsize=9, color=_INK)
    axes.margins(y=0.18)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, colors=_INK)
