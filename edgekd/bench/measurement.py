"""What was measured: every number with its samples, its protocol and its machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgekd.bench.protocol import Protocol
from edgekd.bench.stats import (
    Samples,
    SpeedUp,
    coverage,
    median_of_processes,
    percentile,
    speed_up,
)
from edgekd.errors import MeasurementError, NoVerdictError


@dataclass(frozen=True)
class ModelLatency:
    """The latency of one model, in milliseconds for one call of the protocol's batch.

    ``median_ms`` is the median over processes of each process's median; ``p90_ms`` is over all
    samples (None below 10 of them). ``samples_ms`` is ``(processes, rounds)``, empty when a
    report was stored without samples. ``ratio`` is baseline time / this time, so 2.0 is twice as
    fast, from paired calls; ``ratio_low`` and ``ratio_high`` are the range of the values of the
    single processes. All three are None for the baseline itself.
    """

    name: str
    median_ms: float
    p90_ms: float | None
    samples_ms: tuple[tuple[float, ...], ...]
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None

    def to_dict(self, *, samples: bool) -> dict[str, Any]:
        """Return plain data for JSON, with or without the raw samples."""
        data = {name: getattr(self, name) for name in _NUMBERS}
        rows = [list(row) for row in self.samples_ms]
        return {**data, "samples_ms": rows} if samples else data

    @classmethod
    def from_dict(cls, name: str, data: Mapping[str, Any]) -> ModelLatency:
        """Read what ``to_dict`` wrote."""
        rows = tuple(tuple(map(float, row)) for row in data.get("samples_ms", ()))
        numbers = {key: _number(data[key]) for key in _NUMBERS}
        return cls(name=name, samples_ms=rows, **numbers)  # type: ignore[arg-type]


_NUMBERS = ("median_ms", "p90_ms", "ratio", "ratio_low", "ratio_high")


@dataclass(frozen=True)
class LatencyReport:
    """Models timed against each other in one duet.

    ``machine`` is plain data, see ``machine.fingerprint``; ``runtime`` says what ran the models,
    such as ``onnxruntime 1.31.1 CPU``; ``baseline`` is the key in ``models`` of the ratios.
    ``conditions`` is plain data about a board that was measured over SSH, empty for other reports:
    its clocks, temperatures and throttling. Reports that differ in it can be compared.
    """

    protocol: Protocol
    machine: Mapping[str, Any]
    runtime: str
    baseline: str
    models: Mapping[str, ModelLatency]
    conditions: Mapping[str, Any] = field(default_factory=dict)

    @property
    def interval(self) -> str:
        """Say in words what ``ratio_low`` and ``ratio_high`` are."""
        n = self.protocol.processes
        return f"range of {n} process medians (holds the true median in {coverage(n):.0%})"

    def to_dict(self, samples: bool) -> dict[str, Any]:
        """Return plain data for JSON, with or without the raw samples."""
        return {
            "protocol": self.protocol.to_dict(),
            "machine": dict(self.machine),
            "runtime": self.runtime,
            "baseline": self.baseline,
            "interval": self.interval,
            "models": {name: m.to_dict(samples=samples) for name, m in self.models.items()},
            **({"conditions": dict(self.conditions)} if self.conditions else {}),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LatencyReport:
        """Read what ``to_dict`` wrote; raises MeasurementError on other data."""
        if isinstance(data, Mapping) and data.get("kind") == "prediction":
            raise MeasurementError(
                "this is a prediction, not a measurement, and cannot be compared with one: "
                "measure the model with edgekd bench"
            )
        try:
            models = {str(k): ModelLatency.from_dict(k, m) for k, m in data["models"].items()}
            return cls(
                protocol=Protocol.from_dict(data["protocol"]),
                machine=dict(data["machine"]),
                runtime=str(data["runtime"]),
                baseline=str(data["baseline"]),
                models=models,
                conditions=dict(data.get("conditions", {})),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise MeasurementError(f"not a latency report ({error!r}); measure again") from error


def summarise(
    samples_ms: Mapping[str, Samples], baseline: str, compared: Mapping[str, Samples] | None = None
) -> dict[str, ModelLatency]:
    """Return the latency of every model from its samples of wall time in milliseconds.

    ``compared`` are the same calls on the clock that ratios are of, if it is another one.
    """
    compared = samples_ms if compared is None else compared
    return {
        name: _latency(
            name, rows, None if name == baseline else speed_up(compared[baseline], compared[name])
        )
        for name, rows in samples_ms.items()
    }


def _latency(name: str, rows: Samples, against: SpeedUp | None) -> ModelLatency:
    return ModelLatency(
        name=name,
        median_ms=median_of_processes(rows),
        p90_ms=percentile([time for row in rows for time in row], 90),
        samples_ms=tuple(tuple(row) for row in rows),
        ratio=against.ratio if against else None,
        ratio_low=against.low if against else None,
        ratio_high=against.high if against else None,
    )


def ensure_comparable(a: LatencyReport, b: LatencyReport) -> None:
    """Raise NoVerdictError when two reports differ in protocol or machine.

    Even on one machine the times of two runs drift by tens of percent; to compare two models,
    measure them in one duet. Ratios against the same baseline travel better than times.
    """
    ensure_same("protocol", a.protocol.to_dict(), b.protocol.to_dict())
    ensure_same("machine", a.machine, b.machine)


def ensure_same(what: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    """Raise NoVerdictError that names what differs between two protocols or machines."""
    differ = [f"{k}: {a.get(k)} and {b.get(k)}" for k in sorted({*a, *b}) if a.get(k) != b.get(k)]
    if differ:
        raise NoVerdictError(
            f"these latencies cannot be compared, their {what} differs ({'; '.join(differ)}): "
            "measure both models together"
        )


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
