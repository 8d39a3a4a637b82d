"""How an engine of a bundle is shown: by ``edgekd build`` and ``edgekd inspect``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekd_cli.output import percent, show_line, show_table


def show_engine(entry: Mapping[str, Any]) -> None:
    """Show an entry of the manifest's ``engines``: what it is, and what was found by running it."""
    build = entry.get("build") or {}
    capabilities = ", ".join(entry["compute_capabilities"])
    parts = [f"{entry['binding']} {entry['version']}", f"compute capability {capabilities}"]
    if build:
        parts.append("strongly typed" if build["strongly_typed"] else "types chosen by TensorRT")
        parts.append(f"{build['seconds']:.1f} s")
    show_line(f"{entry['file'] or 'engine, not kept'}: {', '.join(parts)}, of {entry['onnx']}")
    if verification := entry.get("verification"):
        _show_verification(verification)
    if layers := entry.get("layers"):
        _show_layers(layers)
    if latency := entry.get("latency"):
        show_table(("shapes", "CUDA graph", ">median", ">90 %", ">99 %"), _rows(latency))
    for warning in build.get("warnings", ()):
        show_line(f"TensorRT: {warning}")


def _show_verification(found: dict[str, Any]) -> None:
    agreement = "" if found["agreement"] is None else f"agreement {percent(found['agreement'])}, "
    if found["relative_error"] is None:
        show_line(f"verified: {agreement}but numbers that are not finite")
        return
    show_line(
        f"verified: {agreement}relative error {found['relative_error']:.4f} (at most "
        f"{found['tolerance']:g}), largest difference {found['largest_difference']:.3g}, on "
        f"{found['samples']} {found['inputs']} samples"
    )


def _show_layers(layers: dict[str, Any]) -> None:
    counts = ", ".join(f"{count} {name}" for name, count in layers["precisions"].items())
    show_line(f"layers: {layers['count']} ({counts})")
    for name, precision in layers["fallbacks"].items():
        show_line(f"not on integers: {name} runs in {precision}")
    if layers["unseen"]:
        show_line(
            f"not told by TensorRT: the precision of {len(layers['unseen'])} quantized layers, "
            f"{', '.join(layers['unseen'])}"
        )


def _rows(latency: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    rows = []
    for entry in latency:
        shapes = ", ".join("x".join(map(str, shape)) for shape in entry["shapes"].values())
        for kind, key in (("no", "without_graph"), ("yes", "with_graph")):
            times = entry[key]
            if times is not None:
                cells = (times["median_ms"], times["p90_ms"], times["p99_ms"])
                rows.append((shapes, kind, *("-" if t is None else f"{t:.3f} ms" for t in cells)))
    return rows
