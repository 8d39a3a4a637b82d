"""How latency is measured: the numbers that two measurements must share to be compared."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from edgekd.errors import MeasurementError

VERSION = "duet-2"
"""The rules of the worker. Change it with them: reports of two versions cannot be compared.

duet-2: every process loads all models, calls each until its time is stable, then calls each of them
once a round in random order and times each call alone with a monotonic clock. Who is loaded and
warmed up first changes from process to process.
A process keeps to as many cores as a call has threads, the next one to the next cores. ONNX Runtime
runs sequentially, its threads do not spin; OpenVINO has one stream; Python's garbage collector
rests.
"""


@dataclass(frozen=True)
class Protocol:
    """A duet of single calls; raises MeasurementError for values that make no sense.

    ``threads`` of one call; ``batch`` samples in one call; ``processes`` fresh processes, one
    after another; ``rounds`` timed calls of each model in a process; ``warmup_ms`` milliseconds
    of untimed calls for each model in a process, at least: they go on until two spans of calls take
    the same time within 2 %, at most five times as long; ``primers`` untimed calls of the same
    model right before each timed one; ``clock`` is what ratios are of, ``wall`` or ``running``
    time (``edgekd/bench/clock.py``); ``inputs`` are ``random``, or real ones whose hash it says;
    ``seed`` of random inputs and of the order.

    Without a primer a call finds the caches as another model left them. That is the same for all
    models of one runtime, but OpenVINO's calls lose far more by it than ONNX Runtime's, and the
    more so the more models take turns: set a primer where runtimes are compared.
    """

    threads: int = 1
    batch: int = 1
    processes: int = 5
    rounds: int = 200
    warmup_ms: float = 200.0
    primers: int = 0
    clock: str = "wall"
    inputs: str = "random"
    seed: int = 0
    version: str = VERSION

    def __post_init__(self) -> None:
        for name in ("threads", "batch", "processes", "rounds"):
            _need(_is_whole(getattr(self, name), 1), f"{name} must be a whole number above 0")
        for name in ("seed", "primers"):
            _need(_is_whole(getattr(self, name), 0), f"{name} must be a whole number, 0 or more")
        warmup = self.warmup_ms
        is_time = type(warmup) in (int, float) and math.isfinite(warmup) and warmup >= 0
        _need(is_time, "warmup_ms must be 0 or more milliseconds")
        _need(self.clock in ("wall", "running"), "clock must be wall or running")
        _need(type(self.inputs) is str and bool(self.inputs), "inputs must say what they are")
        _need(self.version == VERSION, f"version is {self.version!r}, this edgekd has {VERSION!r}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Protocol:
        """Read what ``to_dict`` wrote; raises MeasurementError on other data."""
        names = {field.name for field in fields(cls)}
        _need(set(data) == names, f"needs exactly {', '.join(sorted(names))}")
        return cls(**data)


def _is_whole(value: object, least: int) -> bool:
    return type(value) is int and value >= least


def _need(condition: bool, problem: str) -> None:
    if not condition:
        raise MeasurementError(f"latency protocol: {problem}")
