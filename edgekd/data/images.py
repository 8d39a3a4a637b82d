"""Decide how raw images become network inputs: layout, mean and std."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekd.data.samples import Array
from edgekd.errors import DataError
from edgekd.preprocessing import ImagePreprocessing

_CHANNELS = (1, 3, 4)
ImageSize = tuple[int, ...]


def find_image(arrays: dict[str, Array]) -> str | None:
    """Return the name of the input that holds images (uint8), or None.

    Raises DataError when several do: the preprocessing is for one.
    """
    images = [name for name, array in arrays.items() if array.dtype == np.uint8]
    if len(images) > 1:
        raise DataError(
            f"the inputs {', '.join(images)} are all uint8 images; only one can be: give the "
            "others as floats that are already normalised"
        )
    return images[0] if images else None


def image_layout(shape: tuple[int, ...]) -> str:
    """Return NCHW, NHWC or NHW for an array of uint8 images; raises DataError when unclear."""
    if len(shape) == 3:
        return "NHW"
    if len(shape) != 4:
        raise DataError(f"uint8 arrays are taken as images with 3 or 4 axes, not shape {shape}")
    first, last = shape[1] in _CHANNELS, shape[3] in _CHANNELS
    if first == last:
        why = "both could be" if first else "neither is"
        raise DataError(
            f"images of shape {shape}: axis 1 or axis 3 must be the channels (1, 3 or 4), and {why}"
        )
    return "NCHW" if first else "NHWC"


def preprocessing_for(
    shape: tuple[int, ...], mean: Sequence[float] | None, std: Sequence[float] | None
) -> ImagePreprocessing:
    """Return the preprocessing for uint8 images of ``shape``; by default pixels / 255.

    Raises DataError when mean or std do not have one value for every channel.
    """
    layout = image_layout(shape)
    channels = {"NHW": 1, "NCHW": shape[1], "NHWC": shape[-1]}[layout]
    for option, values in (("--mean", mean), ("--std", std)):
        if values is not None and len(values) != channels:
            raise DataError(
                f"{option} has {len(values)} values, but images have {channels} channels"
            )
    means = tuple(map(float, mean)) if mean is not None else (0.0,) * channels
    stds = tuple(map(float, std)) if std is not None else (1.0,) * channels
    return ImagePreprocessing(layout, means, stds)


def refuse_normalisation(mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
    """Raise DataError when mean or std is given for data that is not uint8 images."""
    if mean is not None or std is not None:
        raise DataError(
            "--mean and --std are for uint8 images; these inputs are floats or integers, which are "
            "taken as already normalised"
        )


def height_width(image_size: ImageSize | None) -> tuple[int, int] | None:
    """Read ``(S,)``, ``(H, W)`` or ``(C, H, W)`` as (height, width); raises DataError otherwise."""
    if image_size is None:
        return None
    if len(image_size) not in (1, 2, 3) or any(size < 1 for size in image_size):
        raise DataError(f"the image size {image_size} must be (H, W) or (C, H, W), all positive")
    return image_size[-2:][0], image_size[-1]


def check_image_size(shape: tuple[int, ...], layout: str, wanted: ImageSize | None) -> None:
    """Raise DataError when stored images have another size than ``wanted``: no resizing."""
    size = height_width(wanted)
    there = shape[2:4] if layout == "NCHW" else shape[1:3]
    if size is not None and size != there:
        raise DataError(
            f"the images are {there[0]}x{there[1]}, but {size[0]}x{size[1]} is asked for"
        )
