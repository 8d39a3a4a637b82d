"""Where measuring processes run: on this machine, or on whatever else implements ``Place``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import edgekd
from edgekd.bench.machine import fingerprint
from edgekd.errors import MeasurementError
from edgekd.runtime.openvino import is_installed


@dataclass(frozen=True)
class Ended:
    """How a measuring process ended: its exit code (below 0: a signal) and what it wrote."""

    code: int
    stdout: str
    stderr: str


class Place(Protocol):
    """Where measuring processes run: on this machine, or on a board."""

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

    def machine(self) -> Mapping[str, Any]:
        """Return the fingerprint of the machine that runs it, as ``machine.fingerprint``."""
        ...


class Here:
    """This machine."""

    def bring(self, files: Collection[Path]) -> Mapping[Path, str]:
        """Leave the files where they are."""
        return {file: str(file.resolve()) for file in files}

    def require(self, runtimes: Collection[str]) -> None:
        """Raise MeasurementError when OpenVINO is asked for and missing."""
        if "openvino" in runtimes and not is_installed():
            raise MeasurementError('OpenVINO is not installed: pip install "edgekd[openvino]"')

    def run(self, module: str, job: Mapping[str, Any], timeout_s: float) -> Ended:
        """Run ``module`` with this Python; raises TimeoutError."""
        # -P: whatever lies in the user's current folder must not shadow a module.
        try:
            done = subprocess.run(
                [sys.executable, "-P", "-m", module],
                input=json.dumps(job),
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                env=_environment(),
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise TimeoutError from error
        return Ended(done.returncode, done.stdout, done.stderr)

    def machine(self) -> Mapping[str, Any]:
        """Return this machine's fingerprint."""
        return fingerprint()


def _environment() -> dict[str, str]:
    """Return this environment, with the folder that this very edgekd is imported from."""
    root = str(Path(edgekd.__file__).resolve().parents[1])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUTF8": "1"}


HERE = Here()
