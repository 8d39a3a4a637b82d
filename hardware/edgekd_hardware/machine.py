"""Everything about this machine that reading tells, without measuring."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgekd_hardware import memory
from edgekd_hardware.gpu import Gpu
from edgekd_hardware.jetson import Jetson, read_jetson
from edgekd_hardware.probe import Cpu
from edgekd_hardware.system import ROOT, board_model


@dataclass(frozen=True)
class Machine:
    """What was found. ``gpus`` are those of NVML, or in words why there are none."""

    cpu: Cpu
    board: str | None
    memory_bytes: int | None
    jetson: Jetson | None
    gpus: tuple[Gpu, ...] | str


def find_machine(cpu: Cpu, gpus: tuple[Gpu, ...] | str, root: Path = ROOT) -> Machine:
    """Read what the system's files tell of this machine."""
    return Machine(cpu, board_model(root), memory.total_bytes(root), read_jetson(root), gpus)
