"""Which machine a measurement was taken on. What the standard library tells, and no more."""

from __future__ import annotations

import os
import platform
from typing import Protocol


class Target(Protocol):
    """What is asked of a device profile here; boards that only measure have no profiles."""

    @property
    def runtime(self) -> str:
        """The runtime that models are written for."""
        ...

    @property
    def architecture(self) -> str | None:
        """The processor as ``platform.machine`` names it; None is any."""
        ...


def runs_here(profile: Target) -> bool:
    """Tell whether this machine can time models for the target: ONNX Runtime, same processor."""
    same = profile.architecture in (None, platform.machine())
    return profile.runtime == "onnxruntime" and same


def fingerprint() -> dict[str, str | int]:
    """Return plain data that two measurements must share to be compared.

    It tells kinds of machines apart, not two boards of one kind. Whoever knows more of the board
    (its model, clocks, CPU flags) adds it with ``dataclasses.replace(report, machine={...})``.
    """
    return {
        "processor": platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "cores": os.cpu_count() or 0,
        "usable_cores": usable_cores(),
        "os": platform.platform(),
        "python": platform.python_version(),
    }


def usable_cores() -> int:
    """Return the number of cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 0
