"""What hangs together in a program: units that can only be removed as a whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Removed = Mapping[str, Sequence[int]]  # group name -> the units to take out, ascending


@dataclass(frozen=True)
class Member:
    """Where a group's units lie along one axis of one stored tensor.

    ``tensor`` is the target of its get_attr node; ``indices[i]`` are the places of unit i.
    """

    tensor: str
    axis: int
    indices: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Group:
    """Units of one kind: channels, or attention heads, of the same tensors.

    ``name`` is the first layer whose output they are, ``rows`` how many of its outputs one unit
    holds (1 for a channel, the head's width for a head). ``produced`` are the axes along which
    tensors make a unit (weights' output axes, biases, norms), ``consumed`` those along which they
    read it. Removing a unit changes the program exactly as zeroing what reads it does.
    """

    name: str
    kind: Literal["channels", "heads"]
    size: int
    rows: int
    produced: tuple[Member, ...]
    consumed: tuple[Member, ...]


@dataclass(frozen=True)
class Locked:
    """A layer whose outputs all have to stay, and why.

    ``line`` is the place in the model's source, where the program knows it. ``followed`` is False
    where the analysis gave up (an unknown operation, a shape that cannot be adapted), True where
    the outputs are needed (the model's output, the width that a LayerNorm normalises over).
    """

    layer: str
    reason: str
    line: str | None
    followed: bool


@dataclass(frozen=True)
class Dependencies:
    """The groups of a program, and the layers that belong to none."""

    groups: tuple[Group, ...]
    locked: tuple[Locked, ...]
