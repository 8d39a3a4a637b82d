"""Measure latency so that the number means something. numpy and the runtimes only.

``measure`` times models against each other as a duet; a ``LatencyReport`` carries its samples,
its protocol and its machine.

Names are imported when they are used: ``edgekd doctor`` asks ``edgekd.bench.machine`` which
processor this is, also where ONNX Runtime is broken.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekd.bench.measurement import LatencyReport, ModelLatency, ensure_comparable
    from edgekd.bench.protocol import Protocol
    from edgekd.bench.runner import Variant, measure
    from edgekd.bench.stats import percentile

__all__ = [
    "LatencyReport",
    "ModelLatency",
    "Protocol",
    "Variant",
    "ensure_comparable",
    "measure",
    "percentile",
]

_HOMES = {
    "LatencyReport": "measurement",
    "ModelLatency": "measurement",
    "ensure_comparable": "measurement",
    "Protocol": "protocol",
    "Variant": "runner",
    "measure": "runner",
    "percentile": "stats",
}


def __getattr__(name: str) -> Any:
    """Import the module that defines ``name`` (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
