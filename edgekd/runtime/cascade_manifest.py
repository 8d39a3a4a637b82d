"""What a manifest says about early exits, checked field by field."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from edgekd.runtime.fields import is_number, mapping, need, tensor_name, text
from edgekd.spec import TensorSpec

CONFIDENCES = ("probability", "margin", "entropy")


@dataclass(frozen=True)
class Exit:
    """An exit: its output, the module it sits behind, the kind of its head, its temperature."""

    name: str
    after: str
    head: str
    temperature: float


@dataclass(frozen=True)
class Latency:
    """How long one call with a batch of 1 took where the bundle was made, in milliseconds."""

    p50: float
    p99: float


@dataclass(frozen=True)
class SegmentEntry:
    """A segment: its file, the tensor it receives (None for the first), and its latency."""

    file: str
    link: TensorSpec | None
    latency: Latency | None


@dataclass(frozen=True)
class CascadeManifest:
    """The segments of a model with early exits, one more than there are exits.

    ``operating_points`` give a threshold for each exit: a sample leaves where its ``confidence``
    is larger, None: nothing leaves there. ``default`` names the one that ``load`` takes.
    """

    confidence: str
    exits: tuple[Exit, ...]
    segments: tuple[SegmentEntry, ...]
    operating_points: Mapping[str, tuple[float | None, ...]]
    default: str

    @property
    def leaves_by_default(self) -> bool:
        """Tell whether samples can leave at the default point: at ``full`` none does."""
        return any(threshold is not None for threshold in self.operating_points[self.default])


def parse_cascade(value: object, files: Collection[str]) -> CascadeManifest:
    """Check plain JSON data and return it typed; raises BundleError that names the field."""
    fields = mapping(value, "cascade")
    confidence = fields.get("confidence")
    known = ", ".join(CONFIDENCES)
    need(confidence in CONFIDENCES, "cascade.confidence", f"one of {known}")
    exits = tuple(
        _exit(entry, f"cascade.exits[{i}]")
        for i, entry in enumerate(_list(fields.get("exits"), "cascade.exits"))
    )
    different = len({exit.name for exit in exits}) == len(exits)
    need(different, "cascade.exits", "exits of different names")
    segments = tuple(
        _segment(entry, f"cascade.segments[{i}]", files, first=i == 0)
        for i, entry in enumerate(_list(fields.get("segments"), "cascade.segments"))
    )
    wanted = f"{len(exits) + 1} segments, one more than there are exits"
    need(len(segments) == len(exits) + 1, "cascade.segments", wanted)
    points = {
        name: _thresholds(entry, f"cascade.operating_points.{name}", len(exits))
        for name, entry in mapping(
            fields.get("operating_points"), "cascade.operating_points"
        ).items()
    }
    for name in points:
        text(name, "cascade.operating_points: a name")
    default = fields.get("default")
    there = isinstance(default, str) and default in points
    need(there, "cascade.default", f"one of {', '.join(points) or 'operating_points'}")
    return CascadeManifest(str(confidence), exits, segments, points, str(default))


def _exit(value: object, name: str) -> Exit:
    fields = mapping(value, name)
    return Exit(
        name=text(fields.get("name"), f"{name}.name"),
        after=text(fields.get("after"), f"{name}.after"),
        head=text(fields.get("head"), f"{name}.head"),
        temperature=_positive(fields.get("temperature"), f"{name}.temperature"),
    )


def _segment(value: object, name: str, files: Collection[str], *, first: bool) -> SegmentEntry:
    fields = mapping(value, name)
    file, link = fields.get("file"), fields.get("link")
    need(isinstance(file, str) and file in files, f"{name}.file", "one of the files listed")
    latency = fields.get("latency_ms")
    return SegmentEntry(
        file=str(file),
        link=_link(link, f"{name}.link", first=first),
        latency=None if latency is None else _latency(latency, f"{name}.latency_ms"),
    )


def _link(value: object, name: str, *, first: bool) -> TensorSpec | None:
    need((value is None) == first, name, "null" if first else "a tensor")
    if value is None:
        return None
    found = tensor_name(value, name)
    tensor = mapping(value, name)
    shape = tensor["shape"]
    batched = len(shape) > 1 and shape[0] is None and None not in shape[1:]
    need(batched, f"{name}.shape", "null, for the batch, and then whole numbers")
    return TensorSpec(found, str(tensor["dtype"]), tuple(shape))


def _latency(value: object, name: str) -> Latency:
    fields = mapping(value, name)
    p50, p99 = (_positive(fields.get(key), f"{name}.{key}") for key in ("p50", "p99"))
    return Latency(p50, p99)


def _thresholds(value: object, name: str, exits: int) -> tuple[float | None, ...]:
    found = _list(mapping(value, name).get("thresholds"), f"{name}.thresholds")
    numbers = all(entry is None or is_number(entry) for entry in found)
    wanted = f"{exits} finite numbers or null, one for each exit"
    need(len(found) == exits and numbers, f"{name}.thresholds", wanted)
    return tuple(None if entry is None else float(entry) for entry in found)


def _positive(value: Any, name: str) -> float:
    need(is_number(value) and value > 0, name, "a finite number above 0")
    return float(value)


def _list(value: object, name: str) -> list[Any]:
    need(isinstance(value, list) and value != [], name, "a list that is not empty")
    return list(value)  # type: ignore[call-overload,no-any-return]  # checked above
