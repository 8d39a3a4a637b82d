"""Measure on a board over SSH, exactly as here: the same processes, protocol and report."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from edgekd.bench import LatencyReport, Protocol, Variant, measure
from edgekd.bench.place import Ended
from edgekd.errors import MeasurementError, NoVerdictError
from edgekd.progress import Progress, Silent
from edgekd_hardware import throttling
from edgekd_hardware.board_agent import ARCHIVE
from edgekd_hardware.runner_archive import archive
from edgekd_hardware.ssh import Connection

T = TypeVar("T")

_GRACE_S = 60.0  # for what is not the process itself: starting Python, the way back
_SPARE_BYTES = 2**20  # for the answers and what Python itself writes
_STATE_S = 120.0
_LARGEST_FILE = 2**31  # bytes of what a process hands back; engines are as large as their model
# What ONNX Runtime says of a model that is newer than itself.
_TOO_NEW = re.compile(
    r"Unsupported model IR version: \d+, max supported IR version: \d+"
    r"|Opset \d+ is under development|official support for domain \S+ is till opset \d+"
)


class Board:
    """A ``Place``: measuring processes run behind an open connection.

    ``samples`` is the board's state, every two seconds while a process ran.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.title = str(connection.address)
        self.samples: list[dict[str, Any]] = []
        connection.put(ARCHIVE, archive())
        self._machine, self.before = self._look()

    def bring(self, files: Collection[Path]) -> Mapping[Path, str]:
        """Copy the files under names of our own; raises MeasurementError where they do not fit."""
        content = {file: _read(file) for file in sorted(files)}
        needed = sum(map(len, content.values())) + _SPARE_BYTES
        if needed > self._connection.free_bytes:
            raise MeasurementError(
                f"{self._connection.address}: the models need {needed / 1e6:.1f} MB in its "
                f"temporary folder, {self._connection.free_bytes / 1e6:.1f} MB are free: free some "
                "space there"
            )
        return {
            file: self._connection.put(f"model_{number}.onnx", data)
            for number, (file, data) in enumerate(content.items())
        }

    def require(self, runtimes: Collection[str]) -> None:
        """Raise MeasurementError, with the command to install it, when a package is missing."""
        missing = self.missing(["numpy", *sorted(runtimes)])
        if missing:
            raise MeasurementError(
                f"{self._connection.address}: its Python has no {' and no '.join(missing)}: run "
                f"there {_install(self._connection.python, missing)}, or name another Python with "
                "--device-python"
            )

    def missing(self, modules: Collection[str]) -> list[str]:
        """Return which modules the board's Python does not find."""
        return list(self._connection.ask("modules", names=list(modules))["missing"])

    def output(self, name: str) -> str:
        """Return where a process of this board is to write a file that ``fetch`` asks for."""
        return self._connection.path(name)

    def fetch(self, name: str) -> bytes:
        """Return what a process wrote to ``output(name)``; raises MeasurementError."""
        return self._connection.get(name, _LARGEST_FILE)

    def run(self, module: str, job: Mapping[str, Any], timeout_s: float) -> Ended:
        """Run a process on the board; raises TimeoutError, and MeasurementError when it is lost."""
        request = {"module": module, "job": job, "timeout_s": timeout_s}
        answer = self._connection.ask("run", timeout_s + _GRACE_S, **request)
        if "timeout" in answer:
            raise TimeoutError
        self.samples += answer["samples"]
        return Ended(answer["code"], answer["stdout"], answer["stderr"])

    def machine(self) -> Mapping[str, Any]:
        """Return the board's fingerprint, with what else has to be the same: its limits."""
        clocks = self.before.get("max_clocks_mhz")
        more = {
            "power_mode": self.before.get("power_mode"),
            "governor": ", ".join(self.before.get("governors", ())),
            "max_mhz": max(clocks) if clocks else None,
        }
        return {**self._machine, **{name: value for name, value in more.items() if value}}

    def state(self) -> dict[str, Any]:
        """Return the board's state at this moment."""
        return self._look()[1]

    def _look(self) -> tuple[dict[str, Any], dict[str, Any]]:
        done = self.run("edgekd_hardware.board_state", {}, _STATE_S)
        if done.code != 0:
            last = (done.stderr.strip().splitlines() or [f"exit code {done.code}"])[-1]
            raise MeasurementError(f"{self._connection.address}: its state cannot be read: {last}")
        found = json.loads(done.stdout)
        return found["machine"], found["state"]


def measure_on(
    connection: Connection,
    models: Mapping[str, Path | Variant],
    *,
    baseline: str,
    protocol: Protocol | None = None,
    progress: Progress | None = None,
    allow_throttling: bool = False,
) -> LatencyReport:
    """Time models on a board as ``edgekd.bench.measure`` does here; opens the connection.

    The report's ``machine`` is the board, and ``conditions`` has its ``device``, its state
    ``before``, ``during`` (samples) and ``after``, and ``throttling``: what slowed it down.

    Raises MeasurementError as ``measure`` and ``Connection`` do, and NoVerdictError when the board
    was slowed down, unless ``allow_throttling``.
    """
    progress = progress or Silent()
    report, conditions = on_board(
        connection,
        lambda board: measure(
            models, baseline=baseline, protocol=protocol, progress=progress, place=board
        ),
        progress=progress,
        allow_throttling=allow_throttling,
    )
    return replace(report, conditions=conditions)


def on_board(
    connection: Connection,
    work: Callable[[Board], T],
    *,
    progress: Progress,
    allow_throttling: bool = False,
) -> tuple[T, dict[str, Any]]:
    """Open the connection, do ``work`` there, and return its result and the ``conditions``.

    Raises what ``measure_on`` raises.
    """
    device = str(connection.address)
    try:
        with connection:
            board = Board(connection)
            result = _named(board, connection, work)
            after = board.state()
    finally:
        if connection.left:
            progress.note(f"could not be removed: {connection.left}")
    slowed = throttling.reasons(board.before, board.samples, after)
    if slowed and not allow_throttling:
        raise NoVerdictError(
            throttling.refusal(device, slowed, [board.before, *board.samples, after])
        )
    conditions = {
        "device": device,
        "before": board.before,
        "during": board.samples,
        "after": after,
        "throttling": slowed,
    }
    return result, conditions


def _named(board: Board, connection: Connection, work: Callable[[Board], T]) -> T:
    """Work; an error says that it is the board's, and what to do there."""
    try:
        return work(board)
    except MeasurementError as error:
        device, text = str(connection.address), str(error)
        newer = _TOO_NEW.findall(text)
        if newer:
            text = (
                f"{text.split(' cannot be loaded', maxsplit=1)[0]} needs a newer onnxruntime "
                f"({'; '.join(newer)}): run there {connection.python} -m pip install -U onnxruntime"
            )
        raise type(error)(text if device in text else f"{device}: {text}") from error


def _install(python: str, missing: list[str]) -> str:
    """Return the commands that install modules; NVIDIA has no TensorRT for Jetsons with pip."""
    from_pip = [name for name in missing if name != "tensorrt"]
    commands = [f"{python} -m pip install {' '.join(from_pip)}"] if from_pip else []
    if "tensorrt" in missing:
        commands.append("sudo apt install python3-libnvinfer (JetPack, for the system's python3)")
    return " and ".join(commands)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise MeasurementError(f"{file} cannot be read: {error.strerror}") from error
