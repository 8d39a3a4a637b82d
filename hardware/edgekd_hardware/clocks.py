"""Clocks that change while something is measured: governor, turbo, throttling."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from edgekd_hardware.findings import Finding
from edgekd_hardware.system import ROOT, read_number, read_text

_CPU = "sys/devices/system/cpu"


def governors(root: Path = ROOT) -> tuple[str, ...]:
    """Return the frequency governors in use, empty where the system does not show them."""
    files = (root / _CPU / "cpufreq").glob("policy*/scaling_governor")
    return tuple(sorted({text for file in files if (text := read_text(file))}))


def cpu_clocks_fixed(root: Path = ROOT) -> bool | None:
    """Tell whether every core's lowest and highest clock are the same; None if not readable."""
    return _fixed(
        (policy / "scaling_min_freq", policy / "scaling_max_freq")
        for policy in (root / _CPU / "cpufreq").glob("policy*")
    )


def gpu_clocks_fixed(root: Path = ROOT) -> bool | None:
    """The same for the GPU of a Jetson, which the kernel lists under devfreq."""
    folder = root / "sys/class/devfreq"
    devices = (path for kind in ("*.gpu", "*.ga10b", "*.gv11b") for path in folder.glob(kind))
    return _fixed((device / "min_freq", device / "max_freq") for device in devices)


def turbo(root: Path = ROOT) -> bool | None:
    """Tell whether cores may run above their base clock; None where the system does not say."""
    off = read_number(root / _CPU / "intel_pstate/no_turbo")
    if off is not None:
        return off == 0
    boost = read_number(root / _CPU / "cpufreq/boost")
    return None if boost is None else boost == 1


def throttle_count(root: Path = ROOT) -> int | None:
    """Return how often an x86 core was slowed for heat since the start; None if not counted."""
    files = (root / _CPU).glob("cpu[0-9]*/thermal_throttle/core_throttle_count")
    counts = [count for file in files if (count := read_number(file)) is not None]
    return max(counts) if counts else None


def findings(root: Path = ROOT) -> tuple[Finding, ...]:
    """Say what makes clocks unsteady here."""
    found = [*_governor(root), *_turbo(root)]
    count = throttle_count(root)
    if count:
        advice = "improve the cooling; what was measured hot is slower than the processor can"
        found.append(Finding("throttling", "note", f"{count} times since the start", advice))
    if not found and count is None:
        advice = "nothing here can tell whether they change; let `edgekd bench` repeat more"
        found.append(Finding("clocks", "note", "not shown, as on most virtual machines", advice))
    return tuple(found)


def _governor(root: Path) -> tuple[Finding, ...]:
    names = governors(root)
    if not names:
        return ()
    if "powersave" not in names:
        return (Finding("CPU governor", "ok", ", ".join(names)),)
    advice = "measure with: sudo cpupower frequency-set -g performance"
    return (Finding("CPU governor", "note", ", ".join(names), advice),)


def _turbo(root: Path) -> tuple[Finding, ...]:
    on = turbo(root)
    if on is None:
        return ()
    if not on:
        return (Finding("turbo", "ok", "off: clocks do not depend on heat"),)
    intel = (root / _CPU / "intel_pstate/no_turbo").exists()
    switch = f"1 | sudo tee /{_CPU}/intel_pstate/no_turbo"
    switch = switch if intel else f"0 | sudo tee /{_CPU}/cpufreq/boost"
    value = "on: clocks depend on heat and on other cores"
    return (Finding("turbo", "note", value, f"steadier times without: echo {switch}"),)


def _fixed(pairs: Iterable[tuple[Path, Path]]) -> bool | None:
    limits = [(read_number(low), read_number(high)) for low, high in pairs]
    known = [(low, high) for low, high in limits if low is not None and high is not None]
    return all(low == high for low, high in known) if known else None
