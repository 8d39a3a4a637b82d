"""Deal samples out into disjoint sets, the same way for the same seed."""

from __future__ import annotations

import numpy as np

from edgekd.data.samples import Array, Indices, StoredSamples, Subset
from edgekd.errors import DataError

CALIBRATION_SHARE = 0.2


def hold_out(samples: StoredSamples, count: int, seed: int) -> tuple[Subset, Subset]:
    """Split into (the rest, ``count`` held out), disjoint and complete, both in stored order.

    Class labels keep their proportions. Raises DataError when either side would be empty.
    """
    if not 0 < count < len(samples):
        raise DataError(
            f"too few samples to split: {len(samples)} are there, {count} of them to be held out"
        )
    held = held_out_indices(len(samples), count, seed, samples.targets)
    kept = np.setdiff1d(np.arange(len(samples)), held)
    return Subset(samples, kept), Subset(samples, held)


def held_out_indices(total: int, count: int, seed: int, targets: Array | None = None) -> Indices:
    """Choose ``count`` of ``total`` indices, sorted; in proportion by class for class labels."""
    generator = np.random.default_rng(seed)
    order = generator.permutation(total)
    if targets is None or targets.ndim != 1 or targets.dtype.kind not in "iu":
        return np.sort(order[:count])
    # Spread every class evenly over the range 0..1; the first count then holds each class in its
    # share. The random order breaks ties, so no class is always rounded up.
    labels = targets[order]
    place = np.empty(total)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        place[members] = (np.arange(len(members)) + generator.random()) / len(members)
    return np.sort(order[np.argsort(place, kind="stable")[:count]])


def validation_count(total: int, fraction: float) -> int:
    """Return how many samples validate; raises DataError for a fraction outside 0..1."""
    if not 0.0 < fraction < 1.0:
        raise DataError(f"validation_fraction must be between 0 and 1, not {fraction}")
    return max(1, round(total * fraction))


def calibration_count(total: int, wanted: int) -> int:
    """Return how many training samples calibrate: ``wanted``, at most a fifth, at least one."""
    if wanted < 1:
        raise DataError(f"calibration_samples must be at least 1, not {wanted}")
    return max(1, min(wanted, int(total * CALIBRATION_SHARE)))
