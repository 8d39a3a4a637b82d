"""Which machine a measurement was taken on: what the standard library and Linux tell of it."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from edgekd.errors import MeasurementError

CPUINFO = Path("/proc/cpuinfo")
OWN_STATUS = Path("/proc/self/status")
CORES = Path("/sys/devices/system/cpu")
DEVICE_TREE_MODEL = Path("/proc/device-tree/model")
VNNI = frozenset(("avx512_vnni", "avx_vnni", "amx_int8"))  # sums of INT8 products in 32 bits


class Target(Protocol):
    """What is asked of a device profile here; boards that only measure have no profiles."""

    @property
    def runtime(self) -> str:
        """The runtime that models are written for."""
        ...

    @property
    def runtimes(self) -> Sequence[str]:
        """All runtimes that can be used there; none given is that of ``runtime``."""
        ...

    @property
    def architecture(self) -> str | None:
        """The processor as ``platform.machine`` names it; None is any."""
        ...

    @property
    def cpu_flags(self) -> Sequence[str]:
        """The instruction sets that the processor has, ``a|b`` for one of two."""
        ...

    @property
    def absent_cpu_flags(self) -> Sequence[str]:
        """The instruction sets that it does not have."""
        ...


def runs_here(profile: Target) -> bool:
    """Tell whether this machine can time models for the target: ONNX Runtime, same processor."""
    return why_not_here(profile) is None


def why_not_here(profile: Target) -> str | None:
    """Return why nothing can be timed here for the target, in words for a sentence; None if it can.

    A processor whose instruction sets cannot be read is not taken for one that needs certain ones.
    """
    if profile.runtime != "onnxruntime":
        return f"models for it run on {profile.runtime}"
    if profile.runtimes and "onnxruntime" not in profile.runtimes:
        return f"models for it run with {' or '.join(profile.runtimes)} on what edgekd cannot time"
    if profile.architecture not in (None, platform.machine()):
        return f"this is a {platform.machine()} machine, not {profile.architecture}"
    return _why_another_processor(profile, cpu_flags())


def adds_in_16_bits(profile: Target) -> bool:
    """Tell whether ONNX Runtime adds pairs of INT8 products in 16 bits on the target.

    So it does on x86-64 without VNNI (ONNX Runtime, quantization guide), and the sum of two
    products of 8 bits can saturate. A profile that does not say is for the processor at hand.
    """
    if profile.architecture not in (None, "x86_64"):
        return False
    if any(VNNI.intersection(flag.split("|")) for flag in profile.cpu_flags):
        return False
    if VNNI.intersection(profile.absent_cpu_flags):
        return True
    flags = cpu_flags()
    return platform.machine() == "x86_64" and flags is not None and not VNNI & flags


def _why_another_processor(profile: Target, flags: frozenset[str] | None) -> str | None:
    if not profile.cpu_flags and not profile.absent_cpu_flags:
        return None
    if flags is None:
        return "this machine does not tell which instruction sets its processor has"
    if lacking := [f for f in profile.cpu_flags if not flags.intersection(f.split("|"))]:
        return f"this processor lacks {', '.join(lacking).replace('|', ' or ')}"
    if more := [f for f in profile.absent_cpu_flags if f in flags]:
        return f"this processor has {', '.join(more)}, and the target is one without"
    return None


def fingerprint() -> dict[str, str | int]:
    """Return plain data that two measurements must share to be compared.

    It tells kinds of machines apart, not two boards of one kind. Whoever knows more of the board
    (its clocks, its power mode) adds it with ``dataclasses.replace(report, machine={...})``.
    """
    return {
        "processor": processor_name() or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "cores": os.cpu_count() or 0,
        "usable_cores": usable_cores(),
        "os": platform.platform(),
        "python": platform.python_version(),
    }


@lru_cache
def read_cpuinfo(path: Path = CPUINFO) -> Mapping[str, str]:
    """Return the fields of the first core, by Linux's names; empty without such a file."""
    try:
        first = path.read_text("utf-8", "replace").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def cpu_flags(path: Path = CPUINFO) -> frozenset[str] | None:
    """Return Linux's names of the processor's instruction sets, None where they cannot be read."""
    fields = read_cpuinfo(path)
    flags = fields.get("flags", fields.get("Features"))  # x86 and ARM name it differently
    return None if flags is None else frozenset(flags.split())


def processor_name(path: Path = CPUINFO) -> str:
    """Return the processor's or the ARM board's name with what tells models apart; else empty."""
    fields = read_cpuinfo(path)
    if "model name" in fields:
        numbers = (fields.get(key, "") for key in ("cpu family", "model", "stepping"))
        return f"{fields['model name']} ({'/'.join(numbers)})"
    try:
        return DEVICE_TREE_MODEL.read_text("utf-8", "replace").strip("\0\n ")
    except OSError:
        return ""


def keep_to_cores(threads: int, process: int) -> list[int]:
    """Pin this process, the ``process``-th of a measurement, to as many cores as it has threads.

    They are of the fastest kind that it may use, and take turns from one process to the next, so
    that a core that is busy otherwise does not spoil all of them. Returns them; nothing is done,
    and the list is empty, where there are too few or the system does not let a process choose.
    """
    if not hasattr(os, "sched_getaffinity"):
        return []
    usable = sorted(os.sched_getaffinity(0))
    capacity = {core: _capacity(core) for core in usable}
    fast = [core for core in usable if capacity[core] == max(capacity.values())]
    if threads > len(fast):
        return []
    cores = sorted(fast[(process * threads + i) % len(fast)] for i in range(threads))
    os.sched_setaffinity(0, cores)
    return cores


def _capacity(core: int) -> int:
    """Return a number that is larger for faster kinds of cores; 0 where the system is silent."""
    folder = CORES / f"cpu{core}"
    for name in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
        try:
            return int((folder / name).read_text())
        except (OSError, ValueError):
            continue
    return 0


def peak_resident_bytes() -> int:
    """Return the largest resident set that this process has had so far, in bytes.

    Raises MeasurementError where the system does not tell. (getrusage(2) tells on every Unix, but
    its peak may be that of the process which started this one.)
    """
    try:
        lines = OWN_STATUS.read_text().splitlines()
    except OSError as error:
        raise MeasurementError("peak memory can be measured on Linux only") from error
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(fields["VmHWM"].split()[0]) * 1024


def usable_cores() -> int:
    """Return the number of cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 0
