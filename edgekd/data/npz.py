"""Read samples from a .npz file."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from edgekd.data.checks import array_samples, check_same_kind
from edgekd.data.samples import UNNAMED, Array, ArraySamples
from edgekd.errors import DataError

_EXPECTED = "x_train, y_train, x_val, y_val, or x and y (several inputs: x_train.NAME, x.NAME)"


def read_npz(path: Path) -> tuple[ArraySamples, ArraySamples | None]:
    """Return (training samples, validation samples or None when the file does not split them).

    Never unpickles. Raises DataError for a file that is not a .npz, misses arrays, or holds
    arrays that cannot be samples.
    """
    arrays = _read_arrays(path)
    if not any(name.partition(".")[0] in ("x", "x_train") for name in arrays):
        raise DataError(f"{path.name} holds {', '.join(arrays) or 'nothing'}; expected {_EXPECTED}")
    if _inputs(arrays, "x") and _inputs(arrays, "x_train"):
        raise DataError(f"{path.name} holds both x and x_train; expected {_EXPECTED}")
    if "y_val" in arrays and not _inputs(arrays, "x_val"):
        raise DataError(f"{path.name} holds y_val but no x_val; expected {_EXPECTED}")
    if _inputs(arrays, "x"):
        return _split(arrays, "", "data"), None
    train = _split(arrays, "_train", "train")
    if not _inputs(arrays, "x_val"):
        return train, None
    validation = _split(arrays, "_val", "validation")
    check_same_kind(train, validation, "validation")
    return train, validation


def _read_arrays(path: Path) -> dict[str, Array]:
    try:
        # Opened here, because np.load leaves a damaged file open.
        with path.open("rb") as handle:
            file = np.load(handle, allow_pickle=False)
            if isinstance(file, np.ndarray):
                raise DataError(
                    f"{path.name} holds one bare array; expected a .npz with {_EXPECTED}"
                )
            return {name: file[name] for name in file.files}
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        raise DataError(f"{path.name} is truncated or damaged: it is not a whole .npz") from error
    except ValueError as error:
        if "Object arrays" in str(error):
            raise DataError(
                f"{path.name} holds Python objects, which are never unpickled: save plain arrays"
            ) from error
        raise DataError(f"{path.name} is not a .npz file") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def _inputs(arrays: dict[str, Array], prefix: str) -> dict[str, Array]:
    """Return the arrays of one split by input name: ``x`` alone, or ``x.NAME`` in stored order."""
    if prefix in arrays:
        return {UNNAMED: arrays[prefix]}
    dotted = f"{prefix}."
    return {k.removeprefix(dotted): v for k, v in arrays.items() if k.startswith(dotted)}


def _split(arrays: dict[str, Array], suffix: str, split: str) -> ArraySamples:
    return array_samples(_inputs(arrays, f"x{suffix}"), arrays.get(f"y{suffix}"), split)
