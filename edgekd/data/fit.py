"""Whether samples are what a model takes."""

from __future__ import annotations

from itertools import product

import numpy as np

from edgekd.data.source import Dataset
from edgekd.errors import DataError
from edgekd.spec import ModelSpec


def check_fit(data: Dataset, spec: ModelSpec, wanted: tuple[int, ...] | None) -> None:
    """Raise DataError unless the data's samples are what the model, and the user, asked for."""
    example = data.example()
    for tensor, array in zip(spec.inputs, example.values(), strict=True):
        found, expected = array.shape[1:], tensor.shape[1:]
        if (
            str(array.dtype) != tensor.dtype
            or len(found) != len(expected)
            or any(size not in (None, got) for got, size in zip(found, expected, strict=True))
        ):
            raise DataError(
                f"the data's {tensor.name} is {array.dtype} of shape {shape_text(found)}, the "
                f"model takes {tensor}; give data prepared for this model"
            )
    first = next(iter(example.values())).shape[1:]
    if wanted is not None and first != wanted:
        raise DataError(
            f"--input-shape is {shape_text(wanted)}, but the samples are {shape_text(first)}"
        )


def check_ids(data: Dataset, sizes: dict[str, int]) -> None:
    """Raise DataError for an integer that is no row of the table in which the model looks it up."""
    sets = {"training": data.train, "calibration": data.calibration, "validation": data.validation}
    for (split, samples), (name, rows) in product(sets.items(), sizes.items()):
        for start in range(0, len(samples), 1024):
            chosen = np.arange(start, min(start + 1024, len(samples)))
            ids = data.inputs(samples, chosen)[0][name].reshape(len(chosen), -1)
            wrong = (ids < 0) | (ids >= rows)
            if wrong.any():
                row = int(np.flatnonzero(wrong.any(1))[0])
                raise DataError(
                    f"the data's {name} holds {ids[row][wrong[row]][0]} (sample {start + row} of "
                    f"the {split} set), but the model's table has {rows} rows: give ids from 0 to "
                    f"{rows - 1}"
                )


def shape_text(shape: tuple[int, ...]) -> str:
    """Return a shape as the command line takes it: ``3,32,32``."""
    return ",".join(map(str, shape))
