"""Measure latency so that the number means something. numpy and the runtimes only.

``measure`` times models against each other as a duet; a ``LatencyReport`` carries its samples,
its protocol and its machine.
"""

from __future__ import annotations

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
