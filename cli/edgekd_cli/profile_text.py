"""A device profile for people: units, and a table for each field that has entries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekd_cli.output import show_line, show_table

if TYPE_CHECKING:
    from edgekd.device import DeviceProfile

UNITS = {"memory_gib": "GiB", "memory_gb_per_s": "GB/s", "layer_overhead_us": "us"}
APART = ("name", "title", "power_modes", "software", "notes", "sources")


def show_profile(profile: DeviceProfile) -> None:
    """Print every field that is stated, with its source."""
    values = profile.model_dump(mode="json")
    rows = [
        (field, _text(field, value), profile.sources.get(field, ""))
        for field, value in values.items()
        if field not in APART and (value not in (None, []) or field in profile.sources)
    ]
    show_table(("field", "value", "source"), rows)
    if profile.power_modes:
        modes = [
            (str(mode.id), mode.name, "none" if mode.watts is None else f"{mode.watts:g} W")
            for mode in profile.power_modes
        ]
        show_table((">id", "name", ">limit"), modes, title="power_modes")
        _show_source(profile, "power_modes")
    if profile.software:
        stacks = [
            (stack.jetpack, stack.tensorrt, stack.cuda or "-", stack.python or "-")
            for stack in profile.software
        ]
        show_table(("JetPack", "TensorRT", "CUDA", "Python"), stacks, title="software")
        _show_source(profile, "software")
    if profile.notes:
        show_line(f"\n{profile.notes}")
        _show_source(profile, "notes")


def _show_source(profile: DeviceProfile, field: str) -> None:
    if field in profile.sources:
        show_line(f"Source: {profile.sources[field]}")


def _text(field: str, value: Any) -> str:
    if isinstance(value, dict):
        width = max(map(len, value))
        return "\n".join(f"{key:{width}} {rate:,g}" for key, rate in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return f"{value} {UNITS[field]}" if field in UNITS else str(value)
