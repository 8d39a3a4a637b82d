"""A calibration: what layers and whole networks took on one machine, as a JSON file of numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from edgekd.cache import replace_file
from edgekd.errors import MeasurementError
from edgekd.predict.kernel import COLUMNS, Kernel

VERSION = "networks-1"
"""The rules of measuring and describing. Change it with them: times of two versions do not mix.

networks-1: every network in one session of a fresh process for several; nodes by ONNX Runtime's
profiler (mean of the middle half of the calls), then the whole without profiler, in turns with a
reference model, each timed call after an untimed one (median).
"""

_KIND = "calibration"


@dataclass(frozen=True)
class Network:
    """One measured network: ``node_us`` has one time for each of ``kernels``.

    ``node_us`` are the profiler's, which makes every node slower; ``total_us`` is one call without
    it, ``reference_us`` one call of the reference model at that time.
    """

    number: int
    name: str
    total_us: float
    reference_us: float
    kernels: tuple[Kernel, ...]
    node_us: tuple[float, ...]


@dataclass(frozen=True)
class HeldOut:
    """How networks compared with predictions from other networks.

    A whole is ``scale`` times its kernels' sum, ``node_us`` more for each of them, and ``call_us``
    once; ``log_ratios`` are log(measured / predicted) after that.
    """

    scale: float
    node_us: float
    call_us: float
    log_ratios: tuple[float, ...]


@dataclass(frozen=True)
class CalibrationTable:
    """Measured networks, and ``conditions`` that all of them share.

    ``conditions`` are plain data: the machine's fingerprint, the version of ONNX Runtime, the
    number of threads and the seed. ``held_out`` is there once the table is
    finished.
    """

    conditions: Mapping[str, Any]
    date: str
    networks: tuple[Network, ...] = field(default=())
    held_out: HeldOut | None = None

    @property
    def reference_us(self) -> float:
        """Return the reference model's typical time."""
        times = sorted(network.reference_us for network in self.networks)
        return times[len(times) // 2]

    @property
    def machine(self) -> str:
        """Name the machine that was measured."""
        return str(self.conditions["machine"]["processor"])

    def with_networks(self, networks: tuple[Network, ...], date: str) -> CalibrationTable:
        """Return the table with more networks."""
        return replace(self, networks=(*self.networks, *networks), date=date, held_out=None)

    def write(self, path: Path) -> None:
        """Write the file at once. Raises OSError."""
        data = {
            "kind": _KIND,
            "version": VERSION,
            "date": self.date,
            "conditions": dict(self.conditions),
            "held_out": None if self.held_out is None else asdict(self.held_out),
            "columns": ["name", "op", "kind", "arithmetic", "us", *COLUMNS],
        }
        head = json.dumps(data, indent=1)[: -len("\n}")]
        rows = ",\n".join(json.dumps(_network(n), separators=(",", ":")) for n in self.networks)
        replace_file(path, f'{head},\n "networks": [\n{rows}\n]\n}}\n'.encode())

    @classmethod
    def read(cls, path: Path) -> CalibrationTable:
        """Read what ``write`` wrote; raises MeasurementError on anything else."""
        try:
            data = json.loads(path.read_text("utf-8"))
        except OSError as error:
            raise MeasurementError(f"calibration {path}: {error.strerror or error}") from error
        except ValueError as error:
            raise MeasurementError(f"calibration {path} is not JSON: {error}") from error
        if not isinstance(data, dict) or data.get("kind") != _KIND:
            raise MeasurementError(
                f"{path} is not a calibration; edgekd targets calibrate writes one"
            )
        if data.get("version") != VERSION:
            raise MeasurementError(
                f"calibration {path} is of version {data.get('version')!r}, this edgekd reads "
                f"{VERSION!r}: calibrate again"
            )
        try:
            return cls(
                conditions=_conditions(data["conditions"]),
                date=str(data["date"]),
                networks=tuple(_networks(data["networks"])),
                held_out=_held_out(data["held_out"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise MeasurementError(
                f"calibration {path} is damaged ({error!r}): calibrate again"
            ) from error


def _conditions(data: Any) -> dict[str, Any]:
    if not isinstance(data["machine"]["processor"], str) or not isinstance(data["threads"], int):
        raise TypeError("conditions")
    return dict(data)


def _held_out(data: Any) -> HeldOut | None:
    if data is None:
        return None
    return HeldOut(
        scale=float(data["scale"]),
        node_us=float(data["node_us"]),
        call_us=float(data["call_us"]),
        log_ratios=tuple(map(float, data["log_ratios"])),
    )


def _network(network: Network) -> dict[str, Any]:
    pairs = zip(network.kernels, network.node_us, strict=True)
    return {
        "number": network.number,
        "name": network.name,
        "total_us": round(network.total_us, 3),
        "reference_us": round(network.reference_us, 3),
        "kernels": [[k.name, k.op, k.kind, k.arithmetic, us, *k.numbers] for k, us in pairs],
    }


def _networks(data: Any) -> Iterator[Network]:
    for entry in data:
        rows = entry["kernels"]
        kernels = tuple(
            Kernel(str(name), str(op), str(kind), str(arithmetic), *map(int, numbers))
            for name, op, kind, arithmetic, _, *numbers in rows
        )
        yield Network(
            number=int(entry["number"]),
            name=str(entry["name"]),
            total_us=_time(entry["total_us"]),
            reference_us=_time(entry["reference_us"]),
            kernels=kernels,
            node_us=tuple(_time(row[4]) for row in rows),
        )


def _time(value: Any) -> float:
    time = float(value)
    if not (math.isfinite(time) and time > 0):
        raise ValueError(f"{value} is no time")
    return time
