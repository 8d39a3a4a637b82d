"""What it costs to leave at each exit, for any choice of exits."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgekd.bench import Protocol, measure
from edgekd.export.segments import ExitOutput, split
from edgekd.progress import Progress

START, END = "start", "end"
Part = tuple[str, str]  # from behind one exit (or START) to another (or END)


@dataclass(frozen=True)
class PartCosts:
    """The cost of every part of a model between two of its possible exits.

    ``unit``: ``ms`` measured on this machine, or ``share`` of the whole model's computed cost where
    the target is not here.
    """

    exits: tuple[str, ...]
    parts: Mapping[Part, float]
    unit: Literal["ms", "share"]

    def of(self, chosen: Sequence[int]) -> tuple[float, ...]:
        """Return the cost of leaving at each of the chosen exits (positions), and at the end."""
        stops = [*(self.exits[i] for i in chosen), END]
        total, found = 0.0, []
        for start, stop in zip([START, *stops], stops, strict=False):
            total += self.parts[start, stop]
            found.append(total)
        return tuple(found)


def measure_parts(
    model: bytes,
    own: Sequence[str],
    exits: Sequence[str],
    *,
    threads: int,
    seed: int,
    progress: Progress,
) -> PartCosts:
    """Time every part of ``model`` on this machine's ONNX Runtime, batch 1.

    ``model`` has the outputs ``own`` and ``exits``. Each part is a segment as it would be deployed,
    with the head at its end and the confidence of its answer. Raises ExportError for a cut that
    cannot be made, MeasurementError where a part cannot be timed.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths: dict[str, Path] = {}
        parts: dict[str, Part] = {}
        for part, content in _parts(model, own, exits).items():
            name = " to ".join(part)
            parts[name], paths[name] = part, Path(folder) / f"{len(paths)}.onnx"
            paths[name].write_bytes(content)
        protocol = Protocol(
            threads=threads, processes=3, rounds=100, warmup_ms=50.0, primers=1, seed=seed
        )
        report = measure(
            paths,
            baseline=next(iter(paths)),
            protocol=protocol,
            progress=progress,
            same_inputs=False,
        )
    found = {parts[name]: latency.median_ms for name, latency in report.models.items()}
    return PartCosts(tuple(exits), found, "ms")


def _parts(model: bytes, own: Sequence[str], exits: Sequence[str]) -> dict[Part, bytes]:
    """Return the model of every part; parts of no choice of exits are not among them."""
    found: dict[Part, bytes] = {(START, END): split(model, own, [])[0].model}
    for index, name in enumerate(exits):
        first, last = split(model, own, [ExitOutput(name)])
        found[START, name], found[name, END] = first.model, last.model
        for later in exits[index + 1 :]:
            middle = split(model, own, [ExitOutput(name), ExitOutput(later)])[1]
            found[name, later] = middle.model
    return found


def computed_parts(exits: Sequence[str], shares: Sequence[float]) -> PartCosts:
    """Return costs as shares of the whole model's, from those of the layers before each exit.

    Heads and the calls of further segments are not in them.
    """
    at = {START: 0.0, **dict(zip(exits, shares, strict=True)), END: 1.0}
    names = list(at)
    parts = {(a, b): at[b] - at[a] for i, a in enumerate(names) for b in names[i + 1 :]}
    return PartCosts(tuple(exits), parts, "share")
