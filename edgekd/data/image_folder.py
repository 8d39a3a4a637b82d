"""Read labelled images from a folder: train/CLASS/*.jpg beside val/ or test/."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgekd.data.images import ImageSize, height_width
from edgekd.data.samples import UNNAMED, Array, Indices
from edgekd.errors import DataError

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm"})
_VALIDATION = ("val", "validation", "test")


@dataclass(frozen=True)
class ImageFiles:
    """Images on disk, decoded when asked for: uint8 ``(N, H, W, 3)``, or ``(N, H, W)`` if grey.

    ``resize`` tells to bring every image to ``size``; otherwise each must already have it.
    """

    files: tuple[Path, ...]
    targets: npt.NDArray[np.int64]
    size: tuple[int, int]
    resize: bool
    grey: bool

    def __len__(self) -> int:
        return len(self.files)

    def batch(self, indices: Indices) -> tuple[dict[str, Array], Array | None]:
        """Decode these images; raises DataError that names a file which cannot be used."""
        images = np.stack([self._decode(self.files[int(index)]) for index in indices])
        return {UNNAMED: images}, self.targets[indices]

    def digest(self, index: int) -> bytes:
        """Hash the file's bytes."""
        return hashlib.sha256(self.files[index].read_bytes()).digest()

    def _decode(self, file: Path) -> npt.NDArray[np.uint8]:
        image = open_image(file, grey=self.grey)
        if self.resize:
            image = resize_and_crop(image, self.size)
        if (image.height, image.width) != self.size:
            raise DataError(
                f"{file} is {image.height}x{image.width}, but others are {self.size[0]}x"
                f"{self.size[1]}: give --input-shape to resize all"
            )
        return np.asarray(image)


def read_image_folder(
    root: Path, image_size: ImageSize | None
) -> tuple[ImageFiles, ImageFiles | None, tuple[str, ...]]:
    """Return (training images, validation images or None, class names).

    ``image_size`` is ``(H, W)`` or ``(C, H, W)`` and makes every image that size; C = 1 reads them
    as grey. Raises DataError for a folder of another form.
    """
    if not (root / "train").is_dir():
        raise DataError(f"{root} has no folder train/CLASS/ with images")
    train = _list_classes(root / "train")
    classes = tuple(train)
    size = height_width(image_size)
    grey = image_size is not None and len(image_size) == 3 and image_size[0] == 1
    first = open_image(train[classes[0]][0], grey=grey)
    form = (size or (first.height, first.width), size is not None, grey)
    held = next((root / name for name in _VALIDATION if (root / name).is_dir()), None)
    if held is None:
        return _collect(train, classes, *form), None, classes
    validation = _list_classes(held)
    if unknown := sorted(validation.keys() - train.keys()):
        raise DataError(f"{held} has classes that train/ does not have: {', '.join(unknown[:5])}")
    return _collect(train, classes, *form), _collect(validation, classes, *form), classes


def _list_classes(folder: Path) -> dict[str, list[Path]]:
    """Return the image files of each class folder, both sorted by name."""
    found = {}
    for child in sorted(entry for entry in folder.iterdir() if entry.is_dir()):
        files = [file for file in child.rglob("*") if is_image(file)]
        if not files:
            raise DataError(f"{child} holds no images ({', '.join(sorted(_SUFFIXES))})")
        found[child.name] = sorted(files)
    if not found:
        raise DataError(f"{folder} holds no class folders: expected {folder.name}/CLASS/*.jpg")
    return found


def is_image(file: Path) -> bool:
    """Tell by its name whether a file holds an image."""
    return file.suffix.lower() in _SUFFIXES and not file.name.startswith(".")


def _collect(
    found: dict[str, list[Path]],
    classes: tuple[str, ...],
    size: tuple[int, int],
    resize: bool,
    grey: bool,
) -> ImageFiles:
    pairs = [(file, classes.index(name)) for name, files in found.items() for file in files]
    targets = np.array([label for _, label in pairs], np.int64)
    return ImageFiles(tuple(file for file, _ in pairs), targets, size, resize, grey)


def open_image(file: Path, *, grey: bool) -> Image.Image:
    """Decode one file to RGB (or grey); raises DataError that names it when it is damaged."""
    try:
        # A decompression bomb warns first and errors later; palettes with transparency warn.
        with warnings.catch_warnings(), Image.open(file) as image:
            warnings.simplefilter("ignore")
            if image.mode == "P":
                return image.convert("RGBA").convert("L" if grey else "RGB")
            return image.convert("L" if grey else "RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{file} cannot be decoded as an image: {error}") from error


def resize_and_crop(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scale until the image just covers ``size`` (height, width), then cut out the centre."""
    height, width = size
    scale = max(height / image.height, width / image.width)
    scaled = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    image = image.resize(scaled, Image.Resampling.BILINEAR)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
