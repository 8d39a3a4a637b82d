"""Open data of any supported kind as disjoint training, calibration and validation samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.data.factory import read_factory
from edgekd.data.fingerprint import digests, fingerprint, overlap_notes
from edgekd.data.image_folder import read_image_folder
from edgekd.data.images import (
    ImageSize,
    check_image_size,
    find_image,
    preprocessing_for,
    refuse_normalisation,
)
from edgekd.data.npz import read_npz
from edgekd.data.samples import Array, Indices, Samples, StoredSamples, is_positional
from edgekd.data.splits import calibration_count, hold_out, validation_count
from edgekd.data.unlabeled import Joined, read_unlabeled, without_copies
from edgekd.errors import DataError
from edgekd.model.user_code import is_factory
from edgekd.preprocessing import ImagePreprocessing

__all__ = ["Dataset", "Samples", "open_data"]


@dataclass(frozen=True)
class Dataset:
    """Samples in three disjoint sets, and how to turn them into network inputs.

    ``preprocessing`` is for the input called ``image_input`` (uint8 images), which is None when
    inputs are taken as they are. ``fingerprints`` has ``count``, ``sha256`` and ``source`` for each
    of train, calibration and validation, and of ``unlabeled`` (also counted in train) if there are
    such samples. ``notes`` are warnings for the user, one line each.
    ``input_ranges`` has (lowest, highest) of inputs, by the model's names, that real samples reach
    and these may not.
    """

    train: Samples
    calibration: Samples
    validation: Samples
    preprocessing: ImagePreprocessing | None
    classes: tuple[str, ...] | None
    fingerprints: dict[str, dict[str, Any]]
    image_input: str | None = None
    notes: tuple[str, ...] = ()
    names: dict[str, str] = field(default_factory=dict)  # the data's input name -> the model's
    input_ranges: dict[str, tuple[float, float]] = field(default_factory=dict)

    def example(self, batch: int = 2) -> dict[str, Array]:
        """Return ``batch`` calibration samples as network inputs, repeated if there are few."""
        return self.inputs(self.calibration, np.arange(batch) % len(self.calibration))[0]

    def inputs(self, samples: Samples, indices: Indices) -> tuple[dict[str, Array], Array | None]:
        """Return network inputs by name (images: float32 NCHW) and targets of some samples."""
        raw, targets = samples.batch(indices)
        if self.preprocessing is not None and self.image_input is not None:
            raw = {**raw, self.image_input: self.preprocessing(raw[self.image_input])}
        return {self.names.get(name, name): value for name, value in raw.items()}, targets

    def bind(self, names: Sequence[str]) -> Dataset:
        """Return the same data with its inputs called as the model calls them, in call order.

        A single input fits whatever its name, and so do unnamed inputs (a tuple) by position;
        otherwise the names must be the same. Raises DataError when they do not fit.
        """
        own = list(self.calibration.batch(np.arange(1))[0])
        by_position = len(own) == 1 or all(is_positional(name) for name in own)
        if len(own) != len(names) or not (by_position or set(own) == set(names)):
            raise DataError(
                f"the data has the inputs {', '.join(own)}, but the model takes {', '.join(names)}"
            )
        named = set(own) == set(names)
        return replace(self, names={} if named else dict(zip(own, names, strict=True)))


@dataclass(frozen=True)
class _Opened:
    """What a reader found; None stands for a set that is still to be split off."""

    train: StoredSamples
    validation: StoredSamples | None
    calibration: StoredSamples | None
    classes: tuple[str, ...] | None
    source: str


def open_data(
    source: str,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    image_size: ImageSize | None = None,
    validation_fraction: float = 0.2,
    calibration_samples: int = 512,
    seed: int = 0,
    unlabeled: str | None = None,
) -> Dataset:
    """Open a ``.npz`` file, an image folder, or a factory (``FILE.py:name``, ``package.mod:name``).

    uint8 inputs are images and are normalised with ``mean`` and ``std`` (per channel, in units of
    pixels / 255; by default none). Data without a validation set gives up ``validation_fraction``
    of its samples, and training data always gives up ``calibration_samples`` (at most a fifth).
    The same seed gives the same sets. ``unlabeled``, a folder of images or a ``.npz`` file, joins
    the training samples, without what is in the other two sets. Raises DataError, in one line,
    for data that cannot be used.
    """
    opened = _open(source, image_size)
    train, validation = opened.train, opened.validation
    if validation is None:
        train, validation = hold_out(train, validation_count(len(train), validation_fraction), seed)
    calibration = opened.calibration
    if calibration is None:
        train, calibration = hold_out(
            train, calibration_count(len(train), calibration_samples), seed
        )
    image_input, preprocessing = _preprocessing(train, mean, std, image_size)
    more, notes = _unlabeled(unlabeled, train, [calibration, validation])
    joined = train if more is None else Joined(train, more)
    sets: dict[str, StoredSamples] = {
        "train": joined,
        "calibration": calibration,
        "validation": validation,
    }
    hashes = {name: digests(samples) for name, samples in sets.items()}
    prints = {name: fingerprint(sets[name], hashes[name], opened.source) for name in sets}
    if more is not None and unlabeled is not None:
        source = Path(unlabeled).resolve().name
        prints["unlabeled"] = fingerprint(more, hashes["train"][len(train) :], source)
    return Dataset(
        joined,
        calibration,
        validation,
        preprocessing,
        opened.classes,
        prints,
        image_input=image_input,
        notes=(*overlap_notes(hashes), *notes),
    )


def _unlabeled(
    source: str | None, train: StoredSamples, held_out: list[StoredSamples]
) -> tuple[StoredSamples | None, tuple[str, ...]]:
    """Read samples without labels, if there are any, and drop those that measure the result."""
    if source is None:
        return None, ()
    found = read_unlabeled(source, train.batch(np.arange(1))[0])
    kept, copies = without_copies(found, held_out)
    if not len(kept):
        raise DataError(
            f"--unlabeled {source}: all samples are copies of the data's own held-out samples"
        )
    if not copies:
        return kept, ()
    return kept, (
        f"{copies} of {len(found)} unlabelled samples are copies of validation or calibration "
        "samples, and were left out",
    )


def _open(source: str, image_size: ImageSize | None) -> _Opened:
    path = Path(source)
    if path.is_dir():
        images, held, classes = read_image_folder(path, image_size)
        return _Opened(images, held, None, classes, path.resolve().name)
    if path.is_file() and path.suffix == ".py":
        raise DataError(f"{source}: name the function too, as {source}:FACTORY")
    if path.is_file():
        arrays, validation = read_npz(path)
        return _Opened(arrays, validation, None, None, path.name)
    if is_factory(source):
        sets, result = read_factory(source)
        parts = (sets["train"], sets["validation"], sets.get("calibration"))
        return _Opened(*parts, None, result.label)
    raise DataError(
        f"{source}: no such file or folder (data is a .npz, a folder with train/CLASS/*.jpg, or "
        "FILE.py:factory)"
    )


def _preprocessing(
    samples: StoredSamples,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    image_size: ImageSize | None,
) -> tuple[str | None, ImagePreprocessing | None]:
    """Look at one sample to find the image input, if any, and how to normalise it."""
    arrays, _ = samples.batch(np.arange(1))
    name = find_image(arrays)
    if name is None:
        refuse_normalisation(mean, std)
        return None, None
    shape = arrays[name].shape
    preprocessing = preprocessing_for(shape, mean, std)
    check_image_size(shape, preprocessing.layout, image_size)
    return name, preprocessing
