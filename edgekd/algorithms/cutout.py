"""Blank squares in images, each as large as its image's strength says."""

from __future__ import annotations

import torch
from torch import Tensor


def cutout(images: Tensor, strength: Tensor, generator: torch.Generator) -> Tensor:
    """Return the images with a square of zeros each, of the side ``strength / 2`` of the image.

    Args:
        images: ``(N, C, H, W)``, normalised, so that 0 is about the mean; others come back as they
            are.
        strength: ``(N,)``, 0 (nothing is blanked) to 1.
        generator: source of the places, which are uniform over the pixels; a square may hang over
            the border.

    Raises ValueError for another number of strengths.

    Source: DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with
    Cutout", arXiv 1708.04552 (16 of 32 pixels for CIFAR-10); a side that varies is ours.
    """
    if images.ndim != 4:
        return images
    if len(strength) != len(images):
        raise ValueError(f"{len(strength)} strengths do not fit {len(images)} images")
    count, _, height, width = images.shape
    places = torch.rand((count, 2), generator=generator).to(images.device)
    inside = []
    for axis, size in enumerate((height, width)):
        side = (strength.to(images.device).clamp(0, 1) * size / 2).round()
        first = (places[:, axis] * size).floor() - (side / 2).floor()
        pixel = torch.arange(size, device=images.device)
        inside.append((pixel >= first[:, None]) & (pixel < (first + side)[:, None]))
    square = inside[0][:, :, None] & inside[1][:, None, :]
    return images.masked_fill(square[:, None], 0.0)
