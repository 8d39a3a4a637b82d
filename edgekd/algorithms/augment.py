"""Augmentation of image batches during distillation."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Augment = Literal["none", "crop", "crop-flip"]


def augment_images(images: Tensor, kind: Augment, generator: torch.Generator) -> Tensor:
    """Shift each image by up to an eighth of its size, and mirror half of them.

    Args:
        images: float32 ``(N, C, H, W)``.
        kind: ``none``, ``crop`` (shift only) or ``crop-flip``.
        generator: source of randomness; the same state gives the same result.

    The border is filled by reflection, so that no pixel value appears that images do not have.
    """
    if kind == "none" or images.ndim != 4:
        return images
    count, _, height, width = images.shape
    # At least one pixel, but reflection needs more pixels than it adds.
    pad_y, pad_x = (min(max(1, size // 8), size - 1) for size in (height, width))
    padded = F.pad(images, (pad_x, pad_x, pad_y, pad_y), mode="reflect")
    rows = torch.randint(0, 2 * pad_y + 1, (count, 1), generator=generator)
    columns = torch.randint(0, 2 * pad_x + 1, (count, 1), generator=generator)
    rows, columns = rows + torch.arange(height), columns + torch.arange(width)
    if kind == "crop-flip":
        mirrored = torch.rand((count, 1), generator=generator) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    index = torch.arange(count)[:, None, None]
    picked = padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2).contiguous()
