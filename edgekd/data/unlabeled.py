"""Samples without labels, which join the training samples: distillation needs none."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from edgekd.data.checks import check_same_kind
from edgekd.data.image_folder import ImageFiles, is_image
from edgekd.data.images import image_layout
from edgekd.data.npz import read_npz
from edgekd.data.samples import (
    NO_LABEL,
    Array,
    ArraySamples,
    Indices,
    StoredSamples,
    Subset,
)
from edgekd.errors import DataError

MAX_BYTES = 2**30  # images that take less are decoded once and kept in memory
_CHUNK = 256


@dataclass(frozen=True)
class Joined:
    """Labelled samples, and behind them others with the same inputs and no labels."""

    labelled: StoredSamples
    unlabelled: StoredSamples

    def __len__(self) -> int:
        return len(self.labelled) + len(self.unlabelled)

    def batch(self, indices: Indices) -> tuple[dict[str, Array], Array | None]:
        """Return these samples; labels are ``NO_LABEL`` (targets NaN) where there are none."""
        own = indices < len(self.labelled)
        parts, targets, places = [], [], []
        for samples, chosen, first in (
            (self.labelled, own, 0),
            (self.unlabelled, ~own, len(self.labelled)),
        ):
            if chosen.any():
                inputs, found = samples.batch(indices[chosen] - first)
                parts.append(inputs)
                targets.append(self._none(int(chosen.sum())) if first else found)
                places.append(np.flatnonzero(chosen))
        back = np.argsort(np.concatenate(places))
        joined = {name: np.concatenate([part[name] for part in parts])[back] for name in parts[0]}
        known = [target for target in targets if target is not None]
        return joined, np.concatenate(known)[back] if known else None

    @property
    def targets(self) -> Array | None:
        """All targets, in order."""
        own, none = self.labelled.targets, self._none(len(self.unlabelled))
        return None if own is None or none is None else np.concatenate([own, none])

    def digest(self, index: int) -> bytes:
        """Return the part's hash of that sample."""
        count = len(self.labelled)
        return (
            self.labelled.digest(index) if index < count else self.unlabelled.digest(index - count)
        )

    @cached_property
    def _missing(self) -> Array | None:
        """One target that is not there, of the form of the others."""
        _, example = self.labelled.batch(np.arange(1))
        if example is None:
            return None
        return np.full_like(example, np.nan if example.dtype.kind == "f" else NO_LABEL)

    def _none(self, count: int) -> Array | None:
        return None if self._missing is None else np.repeat(self._missing, count, axis=0)


@dataclass(frozen=True)
class _LaidOut:
    """Image files as an array input ``name`` of another layout and number of axes."""

    files: ImageFiles
    name: str
    layout: str
    targets: None = None

    def __len__(self) -> int:
        return len(self.files)

    def batch(self, indices: Indices) -> tuple[dict[str, Array], None]:
        """Decode these images."""
        (images,) = self.files.batch(indices)[0].values()
        if images.ndim == 3 and self.layout != "NHW":
            images = images[..., None]
        if self.layout == "NCHW":
            images = images.transpose(0, 3, 1, 2)
        return {self.name: np.ascontiguousarray(images)}, None

    def digest(self, index: int) -> bytes:
        """Hash the file's bytes."""
        return self.files.digest(index)


def read_unlabeled(
    source: str, example: dict[str, Array], option: str = "--unlabeled"
) -> StoredSamples:
    """Read all images below a folder, whatever its form, or the samples of a ``.npz`` file.

    ``example`` is a batch of the labelled data: images are brought to its size, colours and
    layout, arrays must already be like it. Labels are not read. Raises DataError, which names
    ``option``.
    """
    path = Path(source)
    if path.is_dir():
        return _read_folder(path, example, option)
    if path.is_file() and path.suffix == ".npz":
        found, _ = read_npz(path)
        arrays = found.arrays
        if len(arrays) == len(example) == 1:
            arrays = dict(zip(example, arrays.values(), strict=True))
        samples = ArraySamples(arrays, None)
        check_same_kind(ArraySamples(example, None), samples, f"{option} {path.name}")
        return samples
    raise DataError(f"{option} {source}: no such folder or .npz file")


def _read_folder(root: Path, example: dict[str, Array], option: str) -> StoredSamples:
    (name, images), *others = example.items()
    if others or images.dtype != np.uint8:
        raise DataError(
            f"{option} {root}: a folder of images can join uint8 images only, and the data "
            f"holds {', '.join(f'{n} of {a.dtype}' for n, a in example.items())}; give a .npz "
            "with x prepared like it"
        )
    layout = image_layout(images.shape)
    sizes = dict(zip(layout, images.shape, strict=True))
    channels = sizes.get("C", 1)
    if channels not in (1, 3):
        raise DataError(
            f"{option} {root}: images have 1 or 3 channels, and the data has {channels}"
        )
    files = images_below(root)
    if not files:
        raise DataError(f"{option} {root}: there are no images in it")
    size = (sizes["H"], sizes["W"])
    found = ImageFiles(files, np.full(len(files), NO_LABEL), size, True, channels == 1)
    samples = _LaidOut(found, name, layout)
    if images[0].nbytes * len(files) > MAX_BYTES:
        return samples
    decoded = [batch[name] for batch in _all_batches(samples)]
    return ArraySamples({name: np.concatenate(decoded)}, None)


def images_below(root: Path) -> tuple[Path, ...]:
    """Return all image files below a folder, in the order in which samples are made of them."""
    return tuple(sorted(file for file in root.rglob("*") if is_image(file) and file.is_file()))


def without_copies(
    samples: StoredSamples, held_out: list[StoredSamples]
) -> tuple[StoredSamples, int]:
    """Return ``samples`` without those that are in ``held_out``, value by value, and how many."""
    known = {digest for other in held_out for digest in _contents(other)}
    fresh = np.array([digest not in known for digest in _contents(samples)])
    if fresh.all():
        return samples, 0
    kept = np.flatnonzero(fresh)
    if isinstance(samples, ArraySamples):  # gives the memory of the copies back
        rows = {name: array[kept] for name, array in samples.arrays.items()}
        labels = None if samples.targets is None else samples.targets[kept]
        return ArraySamples(rows, labels), len(fresh) - len(kept)
    return Subset(samples, kept), len(fresh) - len(kept)


def _contents(samples: StoredSamples) -> Iterator[bytes]:
    """Yield a hash of each sample's values, the same for an array and for a decoded file."""
    for batch in _all_batches(samples):
        for rows in zip(*batch.values(), strict=True):
            hasher = hashlib.sha256()
            for row in rows:
                hasher.update(f"{row.dtype}:{row.shape};".encode())
                hasher.update(np.ascontiguousarray(row).tobytes())
            yield hasher.digest()


def _all_batches(samples: StoredSamples) -> Iterator[dict[str, Array]]:
    for start in range(0, len(samples), _CHUNK):
        yield samples.batch(np.arange(start, min(start + _CHUNK, len(samples))))[0]
