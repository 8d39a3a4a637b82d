"""Augmentation that a sample's number and an epoch's seed decide, so that it can be done again.

What a teacher said of a crop can then be stored without the crop. Shen & Xing, "A Fast Knowledge
Distillation Framework for Visual Recognition" (FKD), ECCV 2022, arXiv 2112.01528, store coordinates
beside each label; here they follow from two numbers, whatever the batch, order or machine.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from edgekd.algorithms.augment import Augment


class AugmentPlan(NamedTuple):
    """How to augment a batch: shifts in pixels, and whether to mirror.

    ``rows`` and ``columns`` int64 ``(N,)``, positive where the image's content moves up or left;
    ``mirrored`` bool ``(N,)``, after the shift.
    """

    rows: Tensor
    columns: Tensor
    mirrored: Tensor


def augment_plan(
    indices: NDArray[np.integer], seed: int, height: int, width: int, kind: Augment
) -> AugmentPlan:
    """Return the plan for samples ``indices``: each one's depends on its number and ``seed`` alone.

    As ``augment_images``: shifts by up to an eighth of the image, each way alike, and for
    ``crop-flip`` half of the images are mirrored. The order of a batch and what else is in it
    change nothing.

    Args:
        indices: of samples in the data set, ``(N,)``, 0 and up.
        seed: of the epoch, 0 and up, below 2^64. K seeds that take turns make K sets of a
            teacher's outputs to store.
        height: of the images, in pixels.
        width: of the images.
        kind: ``none``, ``crop`` (shift only) or ``crop-flip``.

    Raises ValueError for negative numbers.
    """
    if seed < 0 or (len(indices) and indices.min() < 0):
        raise ValueError("samples and seeds are numbered from 0")
    if kind == "none":
        still = torch.zeros(len(indices), dtype=torch.int64)
        return AugmentPlan(still, still.clone(), still.bool())
    bits = _mixed(_mixed(np.full(len(indices), seed, np.uint64)) ^ indices.astype(np.uint64))
    shifts = []
    for size in (height, width):
        bits = _mixed(bits)
        pad = _pad(size)
        # All shifts are equally likely but for (2 pad + 1) / 2^64.
        shifts.append((bits % np.uint64(2 * pad + 1)).astype(np.int64) - pad)
    mirrored = (_mixed(bits) >> np.uint64(63)).astype(bool) & (kind == "crop-flip")
    rows, columns = (torch.from_numpy(shift) for shift in shifts)
    return AugmentPlan(rows, columns, torch.from_numpy(mirrored))


def replay(images: Tensor, plan: AugmentPlan) -> Tensor:
    """Return the images shifted and mirrored as planned, the border filled by reflection.

    Args:
        images: ``(N, C, H, W)``, any type; what is no image comes back as it is.
        plan: of these N samples, made for H and W.

    Raises ValueError for a plan of another size.
    """
    if images.ndim != 4:
        return images
    if len(plan.rows) != len(images):
        raise ValueError(f"a plan for {len(plan.rows)} images does not fit {len(images)}")
    height, width = images.shape[2:]
    pad_y, pad_x = _pad(height), _pad(width)
    if plan.rows.abs().max() > pad_y or plan.columns.abs().max() > pad_x:
        raise ValueError(f"the plan was made for larger images than {height} x {width}")
    padded = F.pad(images, (pad_x, pad_x, pad_y, pad_y), mode="reflect")
    device = images.device
    rows = (plan.rows.to(device) + pad_y)[:, None] + torch.arange(height, device=device)
    columns = (plan.columns.to(device) + pad_x)[:, None] + torch.arange(width, device=device)
    columns = torch.where(plan.mirrored.to(device)[:, None], columns.flip(1), columns)
    index = torch.arange(len(images), device=device)[:, None, None]
    picked = padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2).contiguous()


def _pad(size: int) -> int:
    """Return an eighth, at least a pixel; but reflection needs more pixels than it adds."""
    return min(max(1, size // 8), size - 1)


def _mixed(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return 64 bits that each depend on all bits of ``state``, element by element.

    One step of SplitMix64: Steele, Lea & Flood, "Fast Splittable Pseudorandom Number Generators",
    OOPSLA 2014. It is a bijection, and the same on every machine and in every release.
    """
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
