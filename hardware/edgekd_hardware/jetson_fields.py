"""The profile of a Jetson: its GPU's figures come from the shipped profile of its kind."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from typing import Any

from edgekd.device import DeviceProfile
from edgekd_hardware.jetson import Jetson
from edgekd_hardware.processor_fields import three_digits
from edgekd_hardware.rates import Rates

# Names in a Jetson's device tree and in the titles of the shipped profiles, the longer ones first.
_FAMILIES = (
    "AGX Orin",
    "Orin NX",
    "Orin Nano",
    "AGX Xavier",
    "Xavier NX",
    "AGX Thor",
    "Thor",
    "TX2",
    "Nano",
)
# What describes the GPU and TensorRT of a Jetson; none of it can be measured without an engine.
_OF_THE_GPU = (
    "opset",
    "channel_multiple",
    "float_type",
    "layer_norm",
    "sparse_patterns",
    "int8",
    "peak_gmacs",
    "memory_gb_per_s",
    "layer_overhead_us",
    "compute_capability",
    "dla_cores",
    "software",
)


def shipped_like(
    jetson: Jetson, memory_bytes: int | None, shipped: Iterable[DeviceProfile]
) -> DeviceProfile | None:
    """Return the shipped profile of a Jetson's kind; None when there is none.

    Among several, one whose JetPack is on the board, then the one nearest in memory.
    """
    family = _family(jetson.model)
    same = [p for p in shipped if p.runtime == "tensorrt" and family and _family(p.title) == family]

    def distance(profile: DeviceProfile) -> tuple[bool, bool, float]:
        listed = {stack.jetpack for stack in profile.software}
        other_jetpack = bool(listed) and jetson.jetpack not in listed
        gib = (memory_bytes or 0) / 2**30
        lacks = abs((profile.memory_gib or 0) - gib)
        return other_jetpack, ("Super" in profile.title) != ("Super" in jetson.model), lacks

    return min(same, key=distance, default=None)


def as_jetson(
    data: dict[str, Any],
    sources: dict[str, str],
    jetson: Jetson,
    known: DeviceProfile,
    rates: Rates,
    today: date,
) -> None:
    """Make it the profile of a Jetson, whose models are for TensorRT on the GPU."""
    plain = known.model_dump(mode="python")
    for field in _OF_THE_GPU:
        data.pop(field, None)
        sources.pop(field, None)
        if plain[field]:
            data[field] = plain[field]
            sources[field] = f"edgekd's profile {known.name}: {known.sources.get(field, field)}"
    data["runtime"] = "tensorrt"
    data["runtimes"] = [*data["runtimes"], "tensorrt"]
    data["recipe"] = known.recipe
    if jetson.power_modes:
        data["power_modes"] = [mode.model_dump() for mode in jetson.power_modes]
        sources["power_modes"] = (
            f"found on {today} by edgekd targets probe: /etc/nvpmodel.conf of this board; watts "
            "are those in a mode's name"
        )
    gmacs = ", ".join(f"{name} {three_digits(rate):g}" for name, rate in rates.gmacs.items())
    data["notes"] += (
        f" The GPU was not measured. The processor was, on {rates.threads} thread(s): {gmacs} "
        f"billion multiply-accumulates a second, memory "
        f"{three_digits(rates.memory_gb_per_s):g} GB/s."
    )


def _family(name: str) -> str | None:
    return next((family for family in _FAMILIES if family.lower() in name.lower()), None)
