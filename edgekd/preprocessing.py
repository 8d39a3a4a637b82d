"""From uint8 images to the network's own input. numpy only: training and production share it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.errors import DataError


@dataclass(frozen=True)
class ImagePreprocessing:
    """``(pixels / 255 - mean) / std`` per channel, channels first.

    ``layout`` is how the uint8 images come: ``NCHW``, ``NHWC`` or ``NHW`` (grey, one channel is
    added). ``mean`` and ``std`` have one value for every channel, in units of pixels / 255.
    """

    layout: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.layout not in ("NCHW", "NHWC", "NHW"):
            raise DataError(f"image layout {self.layout!r} is not one of NCHW, NHWC, NHW")
        if len(self.mean) != len(self.std) or not self.mean:
            raise DataError("mean and std need one value for every channel")
        if any(value <= 0 for value in self.std):
            raise DataError("std must be positive in every channel")

    def __call__(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Turn uint8 images (a batch in ``layout``) into float32 ``(N, C, H, W)``.

        Raises DataError when dtype, rank or channel count do not fit.
        """
        if images.dtype != np.uint8:
            raise DataError(f"images must be uint8 (0..255), not {images.dtype}")
        if images.ndim != len(self.layout):
            raise DataError(
                f"images must have {len(self.layout)} axes ({self.layout}), not {images.shape}"
            )
        if self.layout == "NHWC":
            images = images.transpose(0, 3, 1, 2)
        elif self.layout == "NHW":
            images = images[:, None]
        if images.shape[1] != len(self.mean):
            raise DataError(f"images have {images.shape[1]} channels, expected {len(self.mean)}")
        # One multiply and one add per pixel: (x / 255 - mean) / std = x * scale + shift.
        std = np.asarray(self.std, np.float32).reshape(1, -1, 1, 1)
        mean = np.asarray(self.mean, np.float32).reshape(1, -1, 1, 1)
        scale, shift = 1.0 / (255.0 * std), -mean / std
        return np.ascontiguousarray(images.astype(np.float32) * scale + shift)

    def range(self) -> tuple[float, float]:
        """Return the smallest and the largest value that any pixel of any channel can become."""
        mean, std = np.asarray(self.mean), np.asarray(self.std)
        return float((-mean / std).min()), float(((1.0 - mean) / std).max())

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ImagePreprocessing:
        """Read what ``to_dict`` wrote."""
        return cls(str(data["layout"]), tuple(data["mean"]), tuple(data["std"]))
