"""A part of a set of samples, and data of which a part is trained on."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import cast

import numpy as np

from edgekd.data.samples import NO_LABEL, Indices, Samples, StoredSamples, Subset
from edgekd.data.source import Dataset


def part(samples: Samples, indices: Indices) -> Subset:
    """Return the samples at these places; nothing is copied."""
    return Subset(cast(StoredSamples, samples), indices.astype(np.int64))


def with_train(data: Dataset, indices: Indices) -> Dataset:
    """Return the data with these of its training samples, by their places; it knows its part.

    The fingerprint of the training samples changes with the choice, so that nothing that was
    computed from all of them is taken for this part's.
    """
    if np.array_equal(indices, np.arange(len(data.train))):
        return data
    before = data.fingerprints["train"]
    chosen = hashlib.sha256(indices.astype("<i8").tobytes())
    chosen.update(before["sha256"].encode())
    train = before | {"count": len(indices), "sha256": chosen.hexdigest()}
    return replace(
        data, train=part(data.train, indices), fingerprints=data.fingerprints | {"train": train}
    )


def unlabelled_places(samples: Samples) -> Indices:
    """Return the places of samples without a label; of all of them where nothing has targets."""
    targets = cast(StoredSamples, samples).targets
    if targets is None:
        return np.arange(len(samples))
    flat = targets.reshape(len(targets), -1)
    none = np.isnan(flat) if targets.dtype.kind == "f" else flat == NO_LABEL
    return np.flatnonzero(none.all(axis=1))
