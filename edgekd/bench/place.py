"""Where measuring processes run: on this machine, or on whatever else implements ``Place``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Ended:
    """How a measuring process ended: its exit code (below 0: a signal) and what it wrote."""

    code: int
    stdout: str
    stderr: str


class Place(Protocol):
    """Where processes run that measure or build: on this machine, or on a board."""

    @property
    def title(self) -> str:
        """What errors call it; empty for this machine."""
        ...

    def bring(self, files: Collection[Path]) -> Mapping[Path, str]:
        """Return where a process finds each of ``files``; raises MeasurementError."""
        ...

    def require(self, runtimes: Collection[str]) -> None:
        """Raise MeasurementError, with what to install, unless these runtimes are there."""
        ...

    def run(self, module: str, job: Mapping[str, Any], timeout_s: float) -> Ended:
        """Run ``python -m module`` in a fresh process, the job as JSON on its stdin.

        Raises TimeoutError when it takes longer, MeasurementError when it cannot be run.
        """
        ...

    def output(self, name: str) -> str:
        """Return where a process is to write a file that ``fetch`` is asked for."""
        ...

    def fetch(self, name: str) -> bytes:
        """Return what a process wrote to ``output(name)``; raises MeasurementError."""
        ...

    def machine(self) -> Mapping[str, Any]:
        """Return the fingerprint of the machine that runs it, as ``machine.fingerprint``."""
        ...
