"""Bring arrays into the few forms that the rest of edgekd expects, or say what is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgekd.data.samples import NO_LABEL, Array, ArraySamples
from edgekd.errors import DataError


def array_samples(inputs: dict[str, Array], targets: Array | None, split: str) -> ArraySamples:
    """Check one split's arrays and return them as samples.

    ``split`` is how messages name it. Floats become float32, labels int64. Raises DataError for
    empty or unequal arrays, objects, NaN or infinity, and negative labels.
    """
    arrays = {name: clean_input(value, f"{split} input {name}") for name, value in inputs.items()}
    clean = None if targets is None else clean_targets(targets, f"{split} targets")
    lengths = {f"input {name}": len(value) for name, value in arrays.items()}
    if clean is not None:
        lengths["targets"] = len(clean)
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in lengths.items())
        raise DataError(f"the {split} arrays have different lengths: {listed}")
    if not all(lengths.values()):
        raise DataError(f"the {split} set is empty")
    return ArraySamples(arrays, clean)


def clean_input(array: Array, label: str) -> Array:
    """Return an input with float64 and float16 as float32; integers stay as they are."""
    _check_kind(array, label)
    if array.dtype.kind != "f":
        return array
    return _as_float32(array, label)


def clean_targets(array: Array, label: str) -> Array:
    """Return class labels as int64 or regression targets as float32; ``(N, 1)`` labels as ``(N,)``.

    Labels of pixels ``(N, H, W)`` may be ``NO_LABEL``. Raises DataError for any other negative
    label, NaN or infinity.
    """
    _check_kind(array, label)
    if array.dtype.kind == "f":
        return _as_float32(array, label)
    array = array.astype(np.int64)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    lowest = NO_LABEL if array.ndim == 3 else 0
    if array.size and array.min() < lowest:
        where = int(np.argwhere(array < lowest)[0][0])
        raise DataError(f"{label}: label {array.min()} is negative (first at index {where})")
    return array


def check_same_kind(train: ArraySamples, other: ArraySamples, split: str) -> None:
    """Raise DataError unless both sets have the same inputs, dtypes, sample shapes and targets."""
    if train.arrays.keys() != other.arrays.keys():
        raise DataError(
            f"train has the inputs {', '.join(train.arrays)}, {split} has {', '.join(other.arrays)}"
        )
    for name in train.arrays:
        ours, theirs = _describe(train.arrays[name]), _describe(other.arrays[name])
        if ours != theirs:
            raise DataError(f"input {name} is {ours} in train, but {theirs} in {split}")
    if (train.targets is None) != (other.targets is None):
        raise DataError(f"targets must be there for both train and {split}, or for neither")
    if train.targets is not None and other.targets is not None:
        ours, theirs = _describe(train.targets), _describe(other.targets)
        if ours != theirs:
            raise DataError(f"the targets are {ours} in train, but {theirs} in {split}")


def _describe(array: Array) -> str:
    return f"{array.dtype}[{', '.join(['N', *map(str, array.shape[1:])])}]"


def _check_kind(array: Any, label: str) -> None:
    if array.dtype.kind not in "biuf":
        raise DataError(f"{label} holds {array.dtype} values, not numbers")
    if array.ndim == 0:
        raise DataError(f"{label} is a single number, not an array of samples")


def _as_float32(array: Array, label: str) -> Array:
    _check_finite(array, label)
    with np.errstate(over="ignore"):
        narrow = array.astype(np.float32, copy=False)
    if not np.isfinite(narrow).all():
        worst = np.abs(array).max()
        raise DataError(f"{label} holds {worst:g}, which float32 cannot: scale the data down")
    return narrow


def _check_finite(array: Array, label: str) -> None:
    if not np.isfinite(array).all():
        index = [int(i) for i in np.argwhere(~np.isfinite(array))[0]]
        raise DataError(f"{label} holds {array[tuple(index)]} at index {index}")
