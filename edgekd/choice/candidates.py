"""A model, what runs it, and what was measured of the two together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgekd.bench.measurement import LatencyReport
from edgekd.metrics import Quality

_RUNTIMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
_MODELS = {"baseline": "the original", "compressed": "the compressed model"}
_FLOATS = {"f32": "FP32", "bf16": "bf16"}


@dataclass(frozen=True)
class Candidate:
    """A model of the bundle (``baseline``, ``compressed``), its runtime and its float precision.

    ``integer_layers`` of ``layers`` convolutions and matrix products run on integers there; the
    counts are the runtime's own, after its fusions.
    """

    model: str
    runtime: str
    precision: str
    integer_layers: int
    layers: int

    @property
    def name(self) -> str:
        """Return its name in the duet: ``compressed openvino f32``."""
        return f"{self.model} {self.runtime} {self.precision}"

    @property
    def arithmetic(self) -> str:
        """Say what its layers are computed in: ``FP32``, ``bf16``, ``INT8`` or ``INT8 + FP32``."""
        floats = _FLOATS[self.precision]
        if self.integer_layers == 0:
            return floats
        return "INT8" if self.integer_layers == self.layers else f"INT8 + {floats}"

    def __str__(self) -> str:
        return f"{_MODELS[self.model]} on {_RUNTIMES[self.runtime]} ({self.arithmetic})"


@dataclass(frozen=True)
class Measured:
    """Candidates with their quality on the validation samples, timed in one duet.

    ``quality`` and ``latency.models`` are keyed by the candidates' names. ``skipped`` says of other
    candidates why they could not be run.
    """

    candidates: tuple[Candidate, ...]
    quality: dict[str, Quality]
    latency: LatencyReport
    skipped: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for the cache."""
        return {
            "candidates": [vars(candidate) for candidate in self.candidates],
            "quality": {name: quality.to_dict() for name, quality in self.quality.items()},
            "latency": self.latency.to_dict(samples=True),
            "skipped": list(self.skipped),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Measured:
        """Read what ``to_dict`` wrote."""
        return cls(
            tuple(Candidate(**entry) for entry in data["candidates"]),
            {name: Quality(**entry) for name, entry in data["quality"].items()},
            LatencyReport.from_dict(data["latency"]),
            tuple(data["skipped"]),
        )
