"""Features of unlike networks, brought to one shape."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return maps ``(N, C, H, W)`` at ``size``: means where they shrink, bilinear if they grow.

    An axis that shrinks is averaged adaptively, so that every pixel counts; only then the other
    one grows.
    """
    height, width = (min(old, new) for old, new in zip(maps.shape[2:], size, strict=True))
    if (height, width) != tuple(maps.shape[2:]):
        maps = F.adaptive_avg_pool2d(maps, (height, width))
    if (height, width) != size:
        maps = F.interpolate(maps, size, mode="bilinear", align_corners=False)
    return maps


def at_the_smaller_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return both maps ``(N, C, H, W)``, channels as they are, at the smaller height and width.

    What one of them does not resolve cannot be compared; the other is averaged.
    """
    size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    return resized(student, size), resized(teacher, size)


def tokens_of_map(maps: Tensor) -> Tensor:
    """Return a map ``(N, C, H, W)`` as tokens ``(N, H * W, C)``, row by row."""
    return maps.flatten(2).transpose(1, 2)


def map_of_tokens(tokens: Tensor, special: int = 0) -> Tensor:
    """Return tokens ``(N, special + S * S, C)`` as a map ``(N, C, S, S)``.

    Args:
        tokens: patches of a square image, row by row, behind ``special`` others (CLS, registers).
        special: how many of the first tokens belong to no place.

    Raises ValueError where the patches do not fill a square.
    """
    patches = tokens[:, special:]
    side = math.isqrt(patches.shape[1])
    if side * side != patches.shape[1] or side == 0:
        raise ValueError(f"{patches.shape[1]} patches do not fill a square map")
    return patches.transpose(1, 2).reshape(len(tokens), -1, side, side)


def pooled(feature: Tensor) -> Tensor:
    """Return one vector a sample, ``(N, C)``: the mean of a map's places or of the tokens.

    Args:
        feature: ``(N, C, H, W)``, ``(N, T, C)`` or ``(N, C)``.

    Raises ValueError for another number of axes.
    """
    if feature.ndim == 4:
        return feature.mean((2, 3))
    if feature.ndim == 3:
        return feature.mean(1)
    if feature.ndim == 2:
        return feature
    raise ValueError(f"a feature of shape {tuple(feature.shape)} has no vector for each sample")
