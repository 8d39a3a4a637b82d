"""Views of a batch's images: turned by quarters, or with hidden patches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgekd.algorithms.label_augmentation import rotations
from edgekd.algorithms.token_mask import hide_patches, random_mask
from edgekd.distillation.term import Pairing, Shape, Viewed

LEAST_PATCHES = 4  # fewer leave nothing to infer a hidden one from


def image_shape(pair: Pairing) -> Shape:
    """Return ``(C, H, W)`` of the only input; raises ValueError where it is no image."""
    if len(pair.inputs) == 1 and len(pair.inputs[0]) == 3:
        return pair.inputs[0]
    raise ValueError(
        "it transforms images, and the model does not have one input of images (N, C, H, W)"
    )


def turned(images: Tensor) -> Viewed:
    """Return each image and its three turns, ``(4 N, C, H, W)``, copies next to each other."""
    return Viewed(rotations(images))


def check_turns(pair: Pairing) -> None:
    """Raise ValueError for what cannot be turned by a quarter."""
    _, height, width = image_shape(pair)
    if height != width:
        raise ValueError(
            f"it turns images by a quarter, and those of {height} x {width} are not square"
        )


@dataclass(frozen=True)
class HiddenPatches:
    """Paint over a ``ratio`` of the square patches of ``size`` pixels, others in every batch."""

    size: int
    ratio: float

    def __call__(self, images: Tensor) -> Viewed:
        """Return the images with hidden patches, and the mask; drawn by torch's CPU generator."""
        count = (images.shape[2] // self.size) * (images.shape[3] // self.size)
        mask = random_mask(len(images), count, self.ratio, torch.default_generator)
        return Viewed(hide_patches(images, mask, self.size), mask)


def patch_grid(pair: Pairing, size: int) -> tuple[int, int]:
    """Return rows and columns of patches; raises ValueError where they do not fill the image."""
    _, height, width = image_shape(pair)
    rows, columns = height // size, width // size
    if height % size or width % size or rows * columns < LEAST_PATCHES:
        raise ValueError(
            f"'patch: {size}' does not split images of {height} x {width} pixels into "
            f"{LEAST_PATCHES} patches or more; give a smaller divisor of both"
        )
    return rows, columns
