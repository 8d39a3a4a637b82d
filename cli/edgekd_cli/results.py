"""The stages, the proof and the kernels of a manifest, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekd_cli.output import percent, show_line, show_table, size

COLUMNS = ("stage", "metric", ">value", ">drop", ">size", ">latency", ">speed", ">time")

Record = Mapping[str, Any]


def show_result(manifest: Record) -> None:
    """Print what each stage gained and lost, whether the export agrees, and what runs as INT8."""
    stages: Sequence[Record] = manifest.get("stages") or []
    if stages:
        show_table(COLUMNS, [_row(stage, _latency_of(stage, stages)) for stage in stages])
        if stages[-1].get("quality", {}).get("agreement") is not None:
            show_line(_against_the_original(stages[-1]["quality"]))
    if manifest.get("parity"):
        show_line(_parity(manifest["parity"]))
    if manifest.get("kernels"):
        show_kernels(manifest["kernels"])
    for note in manifest.get("notes") or []:
        show_line(f"note: {note}")


def show_kernels(kernels: Record) -> None:
    """Print how many layers run as integer kernels, and each one that does not with its reason."""
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
        if layer["precision"] != "int8":
            reason = layer["reason"] or "no reason known"
            show_line(f"  float: {layer['name']} ({layer['op']}): {reason}")


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
    names = ("agreement", "negative_flips", "positive_flips")
    agreement, lost, won = (percent(quality[name]) for name in names)
    return (
        f"against the original: agreement {agreement}, right to wrong {lost}, wrong to right "
        f"{won}, calibration error {quality['calibration_error']:.4f}"
    )


def _parity(parity: Record) -> str:
    verdict = "passed" if parity["passed"] else "FAILED"
    return (
        f"export against torch: {verdict}, agreement {percent(parity['agreement'])}, accuracy gap "
        f"{parity['accuracy_gap_points']:.2f} points, largest output difference "
        f"{parity['max_difference']:.3g}, {parity['samples']} samples"
    )
