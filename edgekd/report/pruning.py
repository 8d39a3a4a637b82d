"""What the page says about a prune stage, in rows and words, from the manifest's record of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekd.report.plots import width_plot

Record = Mapping[str, Any]

SOURCES = {
    "measured": "The budget is latency, measured on this machine: the shapes of all layers that "
    "the search could meet were timed, and the last step's candidates as whole networks, in turns "
    "with the original",
    "predicted": "The budget is latency on a device that is not this machine. What is marked as "
    "predicted comes from the device's latency model; nothing was measured on the device",
    "counted": "The budget is counted, which is exact, and says nothing about latency",
}


def pruning_of(stage: Record, original: Record) -> dict[str, Any]:
    """Return what the page shows of a prune stage; ``original`` is the first stage's record.

    ``plot`` is SVG text, everything else plain text and numbers.
    """
    facts = stage["details"]["prune"]
    return {
        "stage": stage["name"],
        "source": SOURCES[facts["source"]],
        "predicted": facts["source"] == "predicted",
        "rows": _rows(facts, stage, original),
        "steps": [_step(step, facts["source"]) for step in facts["steps"]],
        "blocks": facts["blocks_removed"],
        "groups": _widths(facts),
        "narrower": sum(0 < group["after"] < group["before"] for group in facts["groups"]),
        "locked": _by_reason(facts["locked"]),
        "plot": width_plot(facts["groups"]) if facts["groups"] else "",
    }


def _rows(facts: Record, stage: Record, original: Record) -> list[tuple[str, ...]]:
    """Return figure, original, result, gain, what was asked for, and where the figure is from."""
    asked = {key: _asked(key, value) for key, value in facts["budget"].items()}
    rows = [*_search_rows(facts, next(iter(asked.values()))), _measured_again(facts, stage)]
    for name, key in (("multiplications", "macs"), ("parameters", "parameters")):
        before, after = facts[key]
        counts = f"{before:,}", f"{after:,}", _gain(before, after)
        rows.append((name, *counts, asked.get(key, ""), "counted"))
    sizes = original["model_bytes"], stage["model_bytes"]
    kib = (f"{size / 1024:,.1f} KiB" for size in sizes)
    rows.append(("ONNX file", *kib, _gain(*sizes), "", "in float"))
    return rows


def _search_rows(facts: Record, asked: str) -> list[tuple[str, ...]]:
    """Return the latency that the search saw for what it chose: before the last training."""
    if facts["source"] == "counted":
        return []
    last, start = facts["steps"][-1], facts["original_ms"]
    found = last["attempts"][last["chosen"]]
    if facts["source"] == "predicted":
        gain = found["predicted"]
        times = f"{start:.3f} ms, predicted", f"{start / gain:.3f} ms, predicted"
        how = "the device's latency model, layer by layer"
        return [("latency in float, predicted", *times, f"{gain:.2f}x, predicted", asked, how)]
    measured, foretold = found["measured"], found["predicted"]
    times = f"{start:.3f} ms", f"{start / measured:.3f} ms"
    return [
        ("latency in float", *times, f"{measured:.2f}x", asked, "measured whole, in the search"),
        (
            "the same from its layers",
            "",
            f"{start / foretold:.3f} ms, predicted",
            f"{foretold:.2f}x, predicted",
            "",
            "what the search expected before it measured, from the measured times of single layers",
        ),
    ]


def _measured_again(facts: Record, stage: Record) -> tuple[str, ...]:
    name = "latency after the stage"
    if not stage["latency"]:
        why = "the target's runtime is not on this machine"
        return (name, "not measured", "not measured", "", "", why)
    models = stage["latency"]["models"]
    before, after = models["original"], models[stage["name"]]
    times = f"{before['median_ms']:.3f} ms", f"{after['median_ms']:.3f} ms"
    spread = f"{after['ratio']:.2f}x ({after['ratio_low']:.2f} to {after['ratio_high']:.2f})"
    elsewhere = ", which is not the target" if facts["source"] == "predicted" else ""
    return (name, *times, spread, "", f"measured on this machine{elsewhere}, in float")


def _asked(key: str, value: float) -> str:
    match key:
        case "speedup":
            return f"{value:.2f}x"
        case "latency_ms":
            return f"at most {value:g} ms"
        case _:
            return f"at most {100 * value:g} % of them"


def _gain(before: float, after: float) -> str:
    return f"{before / after:.2f}x less" if after else ""


def _step(step: Record, source: str) -> dict[str, Any]:
    """Return one row of the table of steps."""
    tried = [_attempt(attempt, source) for attempt in step["attempts"]]
    if len(tried) > 1:
        tried[step["chosen"]] += " (taken)"
    return {
        "wanted": f"{step['wanted_gain']:.2f}x",
        "attempts": tried,
        "damage": f"{step['damage']:.3g}",
        "blocks": step["blocks_removed"],
        "loss": [f"{loss:.4f}" for loss in step.get("held_out_loss", ())],
        "undone": not step.get("distillation_kept", True),
    }


def _attempt(attempt: Record, source: str) -> str:
    if source == "counted":
        return f"{attempt['predicted']:.2f}x, counted"
    predicted = f"{attempt['predicted']:.2f}x predicted"
    return (
        f"{predicted}, {attempt['measured']:.2f}x measured" if "measured" in attempt else predicted
    )


def _widths(facts: Record) -> list[dict[str, Any]]:
    """Return every group with the units that it had behind each step."""
    rows = []
    for group in facts["groups"]:
        name, left = group["name"], [group["before"]]
        for step, later in zip(facts["steps"], facts["steps"][1:], strict=False):
            gone = group["after"] == 0 and name not in later["kept"]
            left.append(0 if gone else step["kept"].get(name, left[-1]))
        rows.append({**group, "left": [*left, group["after"]]})
    return rows


def _by_reason(locked: list[Record]) -> list[dict[str, Any]]:
    """Return the layers that stay, those with one reason together; what was not followed is first.

    The line of the model's source is named where something in the model could be changed.
    """
    found: dict[tuple[bool, str, str], list[str]] = {}
    for layer in locked:
        line = "" if layer["followed"] else layer["line"] or "not known"
        found.setdefault((layer["followed"], layer["reason"], line), []).append(layer["layer"])
    return [
        {"followed": followed, "reason": reason, "line": line, "layers": layers}
        for (followed, reason, line), layers in sorted(found.items(), key=lambda item: item[0][0])
    ]
