"""Measured latencies of layers, each distinct shape timed once on a machine and kept on disk."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import onnxruntime as ort

from edgekd.bench.layers import VERSION, LayerShape, time_layers
from edgekd.bench.machine import fingerprint
from edgekd.cache import replace_file
from edgekd.export.layer_models import layer_model
from edgekd.processes.group import by_first
from edgekd.progress import Progress


class LayerTable:
    """Layer shape -> microseconds on this machine's ONNX Runtime, with ``threads`` threads.

    What was timed lies under ``folder``, apart for every kind of machine, version of ONNX Runtime
    and number of threads. Each batch of timings is a file of its own that appears by a rename, so
    processes may time at once; a file that cannot be read is as good as none. ``progress`` is
    advanced while layers are timed.
    """

    def __init__(self, folder: Path, threads: int, progress: Progress | None = None) -> None:
        self.threads, self.progress = threads, progress
        self.conditions: dict[str, Any] = {
            "version": VERSION,
            "machine": fingerprint(),
            "onnxruntime": ort.__version__,
            "threads": threads,
        }
        text = json.dumps(self.conditions, sort_keys=True)
        self.folder = folder / hashlib.sha256(text.encode()).hexdigest()[:32]
        self._times = {shape: time for path in self._files() for shape, time in _read(path)}

    @property
    def source(self) -> Literal["measured"]:
        """All times here were measured on this machine."""
        return "measured"

    def times(self, shapes: Iterable[LayerShape]) -> dict[LayerShape, float]:
        """Return the microseconds of each shape; those not known yet are timed in one batch.

        Raises MeasurementError when a layer cannot be timed.
        """
        wanted = sorted(set(shapes))
        return by_first(lambda: self._known(wanted))

    def _known(self, wanted: list[LayerShape]) -> dict[LayerShape, float]:
        missing = [shape for shape in wanted if shape not in self._times]
        if missing:
            found = time_layers(missing, layer_model, self.threads, progress=self.progress)
            self._times.update(zip(missing, found, strict=True))
            self._store(missing)
        return {shape: self._times[shape] for shape in wanted}

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("*.json"), reverse=True)  # the first name has the last word

    def _store(self, shapes: list[LayerShape]) -> None:
        layers = [{"shape": s.to_dict(), "microseconds": self._times[s]} for s in shapes]
        text = json.dumps({**self.conditions, "layers": layers}, indent=1, allow_nan=False)
        replace_file(self.folder / f"{secrets.token_hex(8)}.json", text.encode("utf-8"))


def _read(path: Path) -> Iterator[tuple[LayerShape, float]]:
    """Yield what a file holds; nothing if it is damaged."""
    try:
        layers = json.loads(path.read_text("utf-8"))["layers"]
        found = [(LayerShape.from_dict(x["shape"]), float(x["microseconds"])) for x in layers]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return
    yield from found
