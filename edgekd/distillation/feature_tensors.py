"""Tensors in between of two networks, brought to shapes that a loss can compare."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from edgekd.algorithms.feature_shapes import at_the_smaller_size, map_of_tokens
from edgekd.algorithms.projector import Projector
from edgekd.distillation.pairing import square_side
from edgekd.distillation.term import Answers, Pairing, Shape

Compare2 = Callable[[Tensor, Tensor], Tensor]


def channels_of(shape: Shape) -> int:
    """Return C of a map ``(C, H, W)``, of tokens ``(T, C)`` or of a vector ``(C,)``."""
    return shape[1] if len(shape) == 2 else shape[0]


def map_shape(shape: Shape) -> Shape:
    """Return ``(C, H, W)`` of a map, or of tokens that fill a square behind a few others.

    Raises ValueError for anything else.
    """
    if len(shape) == 3:
        return shape
    if len(shape) == 2 and (side := square_side(shape[0])) is not None:
        return shape[1], side, side
    raise ValueError(
        f"it needs maps, or tokens that fill a square, and there is a feature of shape {shape}"
    )


def as_map(feature: Tensor) -> Tensor:
    """Return ``(N, C, H, W)`` of a map, or of tokens as ``map_shape`` takes them."""
    if feature.ndim == 4:
        return feature
    side = math.isqrt(feature.shape[1])
    return map_of_tokens(feature, special=feature.shape[1] - side**2)


def _alike(pair: Pairing) -> bool:
    """Tell whether all compared tensors have as many axes and places, so that none is a map."""
    return all(
        len(own) == len(other) < 3 and (len(own) == 1 or own[0] == other[0])
        for own, other in zip(pair.student.features, pair.teacher.features, strict=True)
    )


def _projectors(pair: Pairing) -> nn.ModuleList:
    """Return a projector for each pair of tensors with unlike channels, else nothing to do."""
    sides = zip(pair.student.features, pair.teacher.features, strict=True)
    channels = [(channels_of(own), channels_of(other)) for own, other in sides]
    return nn.ModuleList(nn.Identity() if a == b else Projector(a, b) for a, b in channels)


def projected(
    pair: Pairing,
) -> tuple[nn.ModuleList, Callable[[Answers], list[tuple[Tensor, Tensor]]]]:
    """Return projectors, and what brings both networks' tensors to equal shapes.

    Raises ValueError for tensors that are neither alike nor maps.
    """
    projectors, alike = _projectors(pair), _alike(pair)
    if not alike:
        for shape in (*pair.student.features, *pair.teacher.features):
            map_shape(shape)

    def brought(seen: Answers) -> list[tuple[Tensor, Tensor]]:
        found = []
        for project, own, other in zip(
            projectors, seen.features, seen.teacher_features, strict=True
        ):
            if alike:
                found.append((project(own), other))
            else:
                small, reference = at_the_smaller_size(as_map(own), as_map(other))
                found.append((project(small), reference))
        return found

    return projectors, brought


def mean(losses: Sequence[Tensor]) -> Tensor:
    """Return the mean of scalars."""
    return torch.stack(list(losses)).mean()


def unless_few(least: int, compare: Compare2) -> Callable[[Answers], Tensor]:
    """Return a loss of the last pair of tensors; 0 for a batch (the last one) below ``least``."""

    def loss(seen: Answers) -> Tensor:
        own, other = seen.features[-1], seen.teacher_features[-1]
        return compare(own, other) if len(own) >= least else own.sum() * 0.0

    return loss
