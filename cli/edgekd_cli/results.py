"""The stages, the proof, the kernels and the choice of a manifest, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekd_cli.exits import show_exits
from edgekd_cli.output import percent, show_line, show_table, size

COLUMNS = ("stage", "metric", ">value", ">drop", ">size", ">latency", ">speed", ">time")
SENSITIVITY_COLUMNS = (">change", ">agreement", ">multiplications", "now")
MOST_SENSITIVE = 10  # rows printed; the report has all

CANDIDATES = ("model", "runtime", "layers", ">value", ">drop", ">latency", ">speed", "range", "")

Record = Mapping[str, Any]


def show_result(manifest: Record) -> None:
    """Print what each stage gained and lost, whether the export agrees, and what runs as INT8."""
    stages: Sequence[Record] = manifest.get("stages") or []
    if stages:
        show_table(COLUMNS, [_row(stage, _latency_of(stage, stages)) for stage in stages])
        if stages[-1].get("quality", {}).get("agreement") is not None:
            show_line(_against_the_original(stages[-1]["quality"]))
    for stage in stages:
        show_pruning(stage)
        show_zeros(stage)
        show_sensitivity(stage.get("details") or {})
    if manifest.get("parity"):
        verdict = "passed" if manifest["parity"]["passed"] else "FAILED"
        show_line(f"export against torch: {verdict}, {_parity(manifest['parity'])}")
    half: Record = manifest.get("float16_model") or {}
    if half.get("file"):
        show_line(f"{half['file']} against model.onnx: {_parity(half['parity'])}")
    if manifest.get("kernels"):
        asked = any(stage["name"] == "quantize" for stage in stages)
        show_kernels(manifest["kernels"], reasons=asked)
    if manifest.get("candidates") and manifest.get("deployment"):
        show_choice(manifest["candidates"], manifest["deployment"])
    show_exits(manifest)
    for note in manifest.get("notes") or []:
        show_line(f"note: {note}")


def show_pruning(stage: Record) -> None:
    """Print what a prune stage was asked for, what came out, and what it left as it is."""
    pruned = (stage.get("details") or {}).get("prune")
    if not pruned:
        return
    macs, parameters = pruned["macs"], pruned["parameters"]
    show_line(
        f"{stage['name']}: asked for {_prune_budget(pruned['budget'])}, {_prune_result(pruned)}; "
        f"multiplications {macs[0]:,} to {macs[1]:,}, parameters {parameters[0]:,} to "
        f"{parameters[1]:,}"
    )
    groups, blocks = pruned["groups"], pruned["blocks_removed"]
    narrower = sum(0 < group["after"] < group["before"] for group in groups)
    gone = f"blocks taken out: {', '.join(blocks)}" if blocks else "no block taken out"
    lost = [locked["layer"] for locked in pruned["locked"] if not locked["followed"]]
    kept = f"; left as they are, since nothing could follow them: {', '.join(lost)}" if lost else ""
    show_line(f"{stage['name']}: {narrower} of {len(groups)} groups are narrower, {gone}{kept}")


def _prune_budget(budget: Record) -> str:
    ((key, value),) = budget.items()
    return {
        "speedup": f"{value:.2f}x in float",
        "latency_ms": f"at most {value:g} ms in float",
        "macs": f"at most {percent(value)} of the multiplications",
        "parameters": f"at most {percent(value)} of the parameters",
    }[key]


def _prune_result(pruned: Record) -> str:
    """Say how the final candidate came out, and whether that was measured."""
    last = pruned["steps"][-1]
    found = last["attempts"][last["chosen"]]
    match pruned["source"]:
        case "measured":
            return f"measured {found['measured']:.2f}x (predicted {found['predicted']:.2f}x)"
        case "predicted":
            return (
                f"predicted {found['predicted']:.2f}x by the device's latency model, not measured"
            )
        case _:
            return f"counted {percent(1 / found['predicted'])}"


def show_zeros(stage: Record) -> None:
    """Print in one line how many weights a stage set to zero, or holds at zero."""
    details = stage.get("details") or {}
    zeros, held = details.get("sparsity") or {}, details.get("held_zeros")
    if zeros.get("layers"):
        show_line(
            f"zeros after {stage['name']}: {zeros['zeros']:,} of {zeros['weights']:,} weights in "
            f"{len(zeros['layers'])} layers ({percent(zeros['zeros'] / zeros['weights'])}, "
            f"{zeros['pattern']}), {len(zeros['dense'])} layers stay dense; compressed file "
            f"{size(stage['compressed_bytes'])}"
        )
    if held:
        show_line(
            f"zeros after {stage['name']}: all {held['planned']:,} of the plan, and "
            f"{held['found'] - held['planned']:,} more that were rounded to zero"
        )


def show_sensitivity(details: Record) -> None:
    """Print what the most sensitive layers cost, and which ones paid for the budget."""
    sensitivity = details.get("sensitivity")
    if sensitivity:
        rows, returned = sensitivity["rows"], details.get("returned_layers") or ()
        shown = [_sensitivity_row(row, returned) for row in rows[:MOST_SENSITIVE]]
        few = f", the first {len(shown)}" if len(shown) < len(rows) else ""
        title = f"Each of {len(rows)} layers quantized alone, {sensitivity['samples']} samples{few}"
        columns = ("layer", f">{sensitivity['measure']}", *SENSITIVITY_COLUMNS)
        show_table(columns, shown, title=title)
    if details.get("budget"):
        show_line(details["budget"]["summary"])


def _sensitivity_row(row: Record, returned: Sequence[str]) -> tuple[str, ...]:
    return (
        row["layer"],
        f"{row['damage']:.3g}",
        f"{-row['drop_points'] + 0.0:+.2f} points",
        percent(row["agreement"]),
        f"{row['macs']:,}",
        "float" if row["layer"] in returned else "quantized",
    )


def show_kernels(kernels: Record, *, reasons: bool) -> None:
    """Print how many layers run as integer kernels and, with ``reasons``, why others do not.

    Where nobody asked for integers, a reason for each layer says nothing.
    """
    show_line(
        f"INT8 in {kernels['runtime']}: "
        f"{kernels['integer_layers']} of {kernels['layers_total']} convolutions and matrix "
        f"products, {kernels['integer_sums']} of {kernels['sums_total']} sums and products"
    )
    if kernels.get("bits"):
        show_line(
            "bits: " + ", ".join(f"{count} {bits}" for bits, count in kernels["bits"].items())
        )
    for layer in kernels["layers"]:
        if reasons and layer["precision"] != "int8":
            reason = layer["reason"] or "no reason known"
            show_line(f"  float: {layer['name']} ({layer['op']}): {reason}")


def show_choice(candidates: Record, deployment: Record) -> None:
    """Print every model on every runtime, what was chosen, and whether compressing was worth it."""
    show_table(CANDIDATES, [_candidate(row) for row in candidates["rows"]])
    for line in candidates["skipped"]:
        show_line(f"not run: {line}")
    show_line(f"chosen: {deployment['reason']}")
    show_line(deployment["verdict"])


def _candidate(row: Record) -> tuple[str, ...]:
    ratio, spread = row["ratio"], ""
    if ratio is not None:
        spread = f"{row['ratio_low']:.2f} to {row['ratio_high']:.2f}"
    mark = "chosen" if row["chosen"] else "" if row["within_limits"] else "misses the limits"
    return (
        row["model"],
        row["runtime"],
        row["arithmetic"],
        percent(row["accuracy"]),
        f"{row['drop_points'] + 0.0:.2f} points",
        f"{row['median_ms']:.3f} ms",
        "1.00x" if ratio is None else f"{ratio:.2f}x",
        spread,
        mark,
    )


def _latency_of(stage: Record, stages: Sequence[Record]) -> Record:
    """Return the latency of a stage: from its own duet, or as the other voice of a later one.

    The original is timed against every stage; the last stage's duet speaks for it.
    """
    for other in (stage, *reversed(stages)):
        models = (other.get("latency") or {}).get("models") or {}
        if stage["name"] in models:
            found: Record = models[stage["name"]]
            return found
    return {}


def _row(stage: Record, latency: Record) -> tuple[str, ...]:
    drop, n_bytes, seconds = (stage.get(k) for k in ("drop_points", "model_bytes", "seconds"))
    median, ratio = latency.get("median_ms"), latency.get("ratio")
    return (
        str(stage["name"]),
        str(stage["metric"]),
        percent(stage.get("accuracy")),
        "-" if drop is None else f"{drop:.2f} points",
        "-" if n_bytes is None else size(n_bytes),
        "-" if median is None else f"{median:.3f} ms",
        "-" if ratio is None else f"{ratio:.2f}x",
        "-" if seconds is None else f"{seconds:.0f} s",
    )


def _against_the_original(quality: Record) -> str:
    if quality.get("pixel_accuracy") is not None:
        return (
            f"same class as the original at {percent(quality['agreement'])} of all pixels, right "
            f"at {percent(quality['pixel_accuracy'])} of those with a label"
        )
    names = ("agreement", "negative_flips", "positive_flips")
    agreement, lost, won = (percent(quality[name]) for name in names)
    return (
        f"against the original: agreement {agreement}, right to wrong {lost}, wrong to right "
        f"{won}, calibration error {quality['calibration_error']:.4f}"
    )


def _parity(parity: Record) -> str:
    return (
        f"agreement {percent(parity['agreement'])}, accuracy gap "
        f"{parity['accuracy_gap_points']:.2f} points, largest output difference "
        f"{parity['max_difference']:.3g}, {parity['samples']} samples"
    )
