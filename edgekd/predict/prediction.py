"""What is predicted, as a type of its own that nothing takes for a measurement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from edgekd.predict.roofline import Limit

KIND = "prediction"


@dataclass(frozen=True)
class KernelTime:
    """One launch: its ``name`` in the runtime's graph, what it is, and its predicted time.

    ``limit`` says what bounds it by the roofline; ``share`` is its part of the whole.
    """

    name: str
    op: str
    kind: str
    arithmetic: str
    microseconds: float
    limit: Limit
    share: float


@dataclass(frozen=True)
class Band:
    """Where the true total lies: between ``low`` and ``high`` times the prediction.

    ``source`` says how that is known.
    """

    low: float
    high: float
    source: str


@dataclass(frozen=True)
class Prediction:
    """The predicted latency of a model on ``target``; nothing here was measured.

    ``basis`` is ``calibration`` when measured tables of the device stand behind it, ``roofline``
    for a bound from the profile's figures. ``call_us`` is what a call costs besides its kernels.
    """

    target: str
    runtime: str
    basis: Literal["calibration", "roofline"]
    batch: int
    threads: int
    kernels: tuple[KernelTime, ...]
    call_us: float
    band: Band
    notes: tuple[str, ...] = ()

    @property
    def total_us(self) -> float:
        """Microseconds of one call."""
        return self.call_us + sum(kernel.microseconds for kernel in self.kernels)

    @property
    def low_us(self) -> float:
        """Return the lower end of the error band."""
        return self.total_us * self.band.low

    @property
    def high_us(self) -> float:
        """Return the upper end of the error band."""
        return self.total_us * self.band.high

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; ``kind`` keeps it apart from measurements."""
        head: Mapping[str, Any] = {
            "kind": KIND,
            "target": self.target,
            "runtime": self.runtime,
            "basis": self.basis,
            "batch": self.batch,
            "threads": self.threads,
            "predicted_us": self.total_us,
            "predicted_low_us": self.low_us,
            "predicted_high_us": self.high_us,
            "band": self.band.source,
            "call_us": self.call_us,
            "notes": list(self.notes),
        }
        return {**head, "kernels": [asdict(kernel) for kernel in self.kernels]}
