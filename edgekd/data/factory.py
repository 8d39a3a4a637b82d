"""Take samples from a function of the user's that returns loaders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from edgekd.data.checks import array_samples, check_same_kind
from edgekd.data.samples import UNNAMED, Array, ArraySamples, positional_name
from edgekd.errors import DataError, EdgekdError
from edgekd.model.user_code import UserResult, call_factory, first_line

_SPLITS = ("train", "validation", "calibration")


def read_factory(text: str) -> tuple[dict[str, ArraySamples], UserResult]:
    """Call ``FILE.py:factory`` or ``package.module:factory`` and read all its loaders once.

    It returns a dict with ``train`` and ``validation`` (``calibration`` if it likes): iterables of
    batches, each ``(inputs, targets)`` or ``inputs`` alone. Inputs are an array or tensor, a tuple
    of them (named input_0 and on) or a dict; two inputs without targets must be a dict, as a pair
    is read as inputs and targets. Raises DataError for anything else.
    """
    result = call_factory(text, DataError, "--data")
    loaders = result.value
    if not isinstance(loaders, Mapping) or not {"train", "validation"} <= loaders.keys():
        what = sorted(map(str, loaders)) if isinstance(loaders, Mapping) else type(loaders).__name__
        raise DataError(f"{text} must return a dict with train and validation, not {what}")
    if unknown := [str(key) for key in loaders if key not in _SPLITS]:
        raise DataError(f"{text} returned {', '.join(unknown)}; known are {', '.join(_SPLITS)}")
    sets = {name: _read_loader(loaders[name], name, text) for name in _SPLITS if name in loaders}
    for name in sets.keys() - {"train"}:
        check_same_kind(sets["train"], sets[name], name)
    return sets, result


def _read_loader(loader: Any, split: str, text: str) -> ArraySamples:
    if not isinstance(loader, Iterable):
        raise DataError(f"{text}: {split} is a {type(loader).__name__}, not an iterable of batches")
    try:
        batches = [_read_batch(batch) for batch in loader]
        if not batches:
            raise DataError(f"the {split} set is empty")
        names = list(batches[0][0])
        inputs = {name: np.concatenate([given[name] for given, _ in batches]) for name in names}
        targets = [target for _, target in batches if target is not None]
        if targets and len(targets) < len(batches):
            raise DataError("some batches have targets and some have none")
        joined = np.concatenate(targets) if targets else None
    except EdgekdError as error:
        raise DataError(f"{text}: {split}: {error}") from error
    except Exception as error:
        raise DataError(
            f"{text}: reading {split} failed: {type(error).__name__}: {first_line(error)}"
        ) from error
    return array_samples(inputs, joined, split)


def _read_batch(batch: Any) -> tuple[dict[str, Array], Array | None]:
    """Split one batch into inputs by name and targets. DataLoader makes lists of tuples."""
    if isinstance(batch, list | tuple) and len(batch) == 2:
        return _read_inputs(batch[0]), _to_array(batch[1])
    return _read_inputs(batch), None


def _read_inputs(inputs: Any) -> dict[str, Array]:
    if isinstance(inputs, Mapping):
        return {str(name): _to_array(value) for name, value in inputs.items()}
    if isinstance(inputs, list | tuple):
        return {positional_name(i): _to_array(value) for i, value in enumerate(inputs)}
    return {UNNAMED: _to_array(inputs)}


def _to_array(value: Any) -> Array:
    """Return a numpy array of a tensor (found by its methods: torch is not imported) or array."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    array = np.asarray(value)
    if array.ndim == 0:
        raise DataError(
            "a batch must have the samples on axis 0; wrap the data set in a DataLoader"
        )
    return array
