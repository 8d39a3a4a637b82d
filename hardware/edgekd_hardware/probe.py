"""What processor this is, read without changing or timing anything."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgekd.bench.machine import CPUINFO, cpu_flags, processor_name, read_cpuinfo, usable_cores

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
    fields = read_cpuinfo(cpuinfo)
    machine = platform.machine().lower()
    return Cpu(
        model=fields.get("model name")
        or processor_name(cpuinfo)
        or platform.processor()
        or "unknown",
        architecture=_SAME_ARCHITECTURE.get(machine, machine),
        cores=usable_cores(),
        flags=cpu_flags(cpuinfo),
    )
