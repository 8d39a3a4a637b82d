"""Which tensor of a student is compared with which of a teacher, whatever their architectures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx

from edgekd.distillation.term import Shape
from edgekd.graph.cuts import block_ends
from edgekd.graph.taps import feature_names, module_outputs
from edgekd.graph.tensors import shape_of
from edgekd.loss_settings import Layers
from edgekd.settings import nearest

MAX_STAGES = 4  # where nothing but depth tells stages apart, as in most transformers
MAX_SPECIAL = 8  # tokens in front of a square of patches: CLS and registers


@dataclass(frozen=True)
class Place:
    """A node of a program, the shape of one sample's tensor there, and its depth in (0, 1]."""

    node: str
    shape: Shape
    depth: float


def block_places(module: fx.GraphModule) -> list[Place]:
    """Return the ends of a program's blocks, in order; depth is their number over all of them."""
    ends = block_ends(module)
    found = [(end, _shape(end)) for end in ends]
    return [
        Place(end.name, shape, (index + 1) / len(ends))
        for index, (end, shape) in enumerate(found)
        if shape is not None
    ]


def stage_places(places: Sequence[Place]) -> list[Place]:
    """Return the last place of each resolution, or, with one resolution, places at equal depths.

    A stage is what a network computes at one height and width (of maps) or number of tokens.
    """
    last = {_resolution(place.shape): place for place in places}
    if len(last) > 1:
        return list(last.values())
    count = min(MAX_STAGES, len(places))
    chosen = {math.ceil((i + 1) * len(places) / count) - 1 for i in range(count)}
    return [places[index] for index in sorted(chosen)]


def pair_places(student: Sequence[Place], teacher: Sequence[Place]) -> list[tuple[Place, Place]]:
    """Return for each of the student's stages the teacher's place that is like it.

    That is the last one of the same resolution; where there is none, or one of the networks has the
    same resolution everywhere, the one whose relative depth is nearest. A teacher's
    place is used once: of two stages the deeper one has it.
    """
    stages = stage_places(student)
    several = all(len({_resolution(p.shape) for p in side}) > 1 for side in (student, teacher))
    found: dict[str, tuple[Place, Place]] = {}
    for place in stages:
        alike = [p for p in teacher if several and _resolution(p.shape) == _resolution(place.shape)]
        other = alike[-1] if alike else min(teacher, key=lambda p: abs(p.depth - place.depth))
        found[other.node] = (place, other)
    return list(found.values())


def named_places(
    student: fx.GraphModule, teacher: fx.GraphModule, layers: Sequence[Layers]
) -> list[tuple[Place, Place]]:
    """Return the places behind the modules that the recipe names.

    Raises ValueError, with the reason, for a name that fits no module, or more than one.
    """
    return [
        (_named(student, pair.student, "student"), _named(teacher, pair.teacher, "teacher"))
        for pair in layers
    ]


def _named(module: fx.GraphModule, path: str, whose: str) -> Place:
    try:
        names = feature_names(module, [path])
    except ValueError:
        near = nearest(path, list(module_outputs(module)))
        raise ValueError(f"{path!r} fits no module of the {whose}{near}") from None
    if len(names) > 1:
        raise ValueError(f"{path!r} fits {len(names)} modules of the {whose}; name one")
    nodes = list(module.graph.nodes)
    index = next(i for i, node in enumerate(nodes) if node.name == names[0])
    shape = _shape(nodes[index])
    if shape is None:
        raise ValueError(f"the output of {path!r} of the {whose} has no fixed shape")
    return Place(names[0], shape, (index + 1) / len(nodes))


def _shape(node: fx.Node) -> Shape | None:
    """Return the shape of one sample's tensor; None where an axis is not fixed."""
    shape = shape_of(node)
    if shape is None or len(shape) < 2 or not all(isinstance(size, int) for size in shape[1:]):
        return None
    return tuple(int(size) for size in shape[1:])


def square_side(tokens: int) -> int | None:
    """Return the side of the square that tokens fill behind a few others; None if they do not."""
    side = math.isqrt(tokens)
    return side if side > 1 and tokens - side**2 <= MAX_SPECIAL else None


def _resolution(shape: Shape) -> Shape:
    """Return height and width of a map or a square of tokens, their number, or () for a vector."""
    if len(shape) == 2:
        side = square_side(shape[0])
        return (shape[0],) if side is None else (side, side)
    return shape[1:]
