"""What processor this is, read without changing or timing anything."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")

# Instructions that multiply and add four INT8 pairs at a time; ONNX Runtime's kernels use them.
INT8_FLAGS = {
    "x86_64": ("amx_int8", "avx512_vnni", "avx_vnni"),
    "aarch64": ("i8mm", "asimddp"),
}
# Instructions that multiply bf16 numbers; OpenVINO can run unquantized models in bf16 with them.
BF16_FLAGS = {
    "x86_64": ("amx_bf16", "avx512_bf16"),
    "aarch64": ("bf16",),
}
_SAME_ARCHITECTURE = {"amd64": "x86_64", "x86-64": "x86_64", "arm64": "aarch64"}


@dataclass(frozen=True)
class Cpu:
    """One processor: ``cores`` are the logical ones this process may use.

    ``flags`` are Linux's names for its instruction sets, None where they cannot be read.
    """

    model: str
    architecture: str
    cores: int
    flags: frozenset[str] | None

    @property
    def int8_flags(self) -> tuple[str, ...] | None:
        """The INT8 instruction sets it has, best first; None when that is unknown."""
        return self._among(INT8_FLAGS)

    @property
    def bf16_flags(self) -> tuple[str, ...] | None:
        """The bf16 instruction sets it has, best first; None when that is unknown."""
        return self._among(BF16_FLAGS)

    def _among(self, known: Mapping[str, tuple[str, ...]]) -> tuple[str, ...] | None:
        if self.flags is None or self.architecture not in known:
            return None
        return tuple(flag for flag in known[self.architecture] if flag in self.flags)


def probe_cpu(cpuinfo: Path = CPUINFO) -> Cpu:
    """Return this machine's processor; ``cpuinfo`` is Linux's description of it."""
    fields = _read_fields(cpuinfo)
    machine = platform.machine().lower()
    flags = fields.get("flags", fields.get("Features"))  # x86 and ARM name it differently
    return Cpu(
        model=fields.get("model name") or _board() or platform.processor() or "unknown",
        architecture=_SAME_ARCHITECTURE.get(machine, machine),
        cores=_usable_cores(),
        flags=None if flags is None else frozenset(flags.split()),
    )


def _read_fields(cpuinfo: Path) -> dict[str, str]:
    """Return the fields of the first core; empty where there is no such file."""
    try:
        first = cpuinfo.read_text("utf-8", "replace").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _board() -> str:
    """Return the name of an ARM board from its device tree (``Raspberry Pi 5 Model B``)."""
    try:
        return Path("/proc/device-tree/model").read_text("utf-8", "replace").strip("\0\n ")
    except OSError:
        return ""


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux: what a container may use, not what there is
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
