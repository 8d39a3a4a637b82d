"""Labelled samples from which thresholds of early exits are chosen: they train nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgekd.data.fingerprint import digests, fingerprint
from edgekd.data.npz import read_npz
from edgekd.data.samples import Array, ArraySamples, Indices, StoredSamples
from edgekd.data.source import Dataset
from edgekd.data.unlabeled import images_below, read_unlabeled, without_copies
from edgekd.errors import DataError

_OPTION = "--exit-data"


@dataclass(frozen=True)
class _Labelled:
    """Samples that are read when asked for, with class labels."""

    samples: StoredSamples
    targets: Array

    def __len__(self) -> int:
        return len(self.samples)

    def batch(self, indices: Indices) -> tuple[dict[str, Array], Array]:
        """Return inputs and labels of these samples."""
        return self.samples.batch(indices)[0], self.targets[indices]

    def digest(self, index: int) -> bytes:
        """Return the hash of that sample's inputs."""
        return self.samples.digest(index)


def with_exit_samples(
    data: Dataset, source: str, classes: int | None
) -> tuple[Dataset, StoredSamples]:
    """Return the data with the samples' fingerprint and notes, and the samples.

    ``source`` is a folder ``CLASS/*.jpg`` or a .npz file; images are brought to the size and layout
    of ``data``. Samples that are also in one of its sets are left out. ``classes`` is how many the
    model tells apart, if its outputs say so. Raises DataError for what cannot be read, does not fit
    or has no labels of these classes.
    """
    example, labels = data.validation.batch(np.arange(1))
    if labels is None or labels.dtype.kind not in "iu":
        raise DataError(f"{_OPTION} is for class labels, which the validation samples do not have")
    samples = read_unlabeled(source, example, _OPTION)
    targets = _targets(Path(source), data, classes)
    found: StoredSamples = _Labelled(samples, targets)
    if isinstance(samples, ArraySamples):
        found = ArraySamples(samples.arrays, targets)
    own = [data.train, data.calibration, data.validation]
    kept, copies = without_copies(found, own)  # type: ignore[arg-type]  # all sets are stored
    if not len(kept):
        raise DataError(f"{_OPTION} {source}: all samples are copies of samples of --data")
    notes = data.notes
    if copies:
        notes = (
            *notes,
            f"{copies} of {len(found)} samples of {_OPTION} are copies of samples of --data, and "
            "were left out",
        )
    entry = fingerprint(kept, digests(kept), Path(source).resolve().name)
    return replace(data, fingerprints={**data.fingerprints, "exits": entry}, notes=notes), kept


def _targets(path: Path, data: Dataset, classes: int | None) -> Array:
    """Return the labels in the order of the samples; class folders count by their sorted names."""
    if path.is_dir():
        return _folder_targets(path, data, classes)
    found = read_npz(path)[0].targets
    if found is None or found.dtype.kind not in "iu":
        raise DataError(f"{_OPTION} {path}: it needs class labels, y or y_train")
    if classes is not None and (found >= classes).any():
        raise DataError(
            f"{_OPTION} {path}: a label is {found.max()}, and the model's classes go from 0 to "
            f"{classes - 1}"
        )
    return found


def _folder_targets(path: Path, data: Dataset, classes: int | None) -> Array:
    parts = [file.relative_to(path).parts for file in images_below(path)]
    if loose := [names[0] for names in parts if len(names) < 2]:
        raise DataError(f"{_OPTION} {path}: expected CLASS/*.jpg, found {loose[0]} in no folder")
    names = [first for first, *_ in parts]
    known = list(data.classes or sorted(set(names)))
    if unknown := sorted(set(names) - set(known)):
        raise DataError(
            f"{_OPTION} {path}: expected CLASS/*.jpg with the classes {', '.join(known[:5])}, "
            f"found {unknown[0]}"
        )
    if data.classes is None and classes is not None and len(known) != classes:
        raise DataError(
            f"{_OPTION} {path}: it has {len(known)} class folders and the model {classes} classes, "
            "of which --data has no names; give a folder for each, or a .npz file with x and y"
        )
    return np.array([known.index(name) for name in names], np.int64)
