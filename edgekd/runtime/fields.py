"""Checks of plain JSON data that name the field they refuse."""

from __future__ import annotations

import math
from typing import Any

from edgekd.errors import BundleError
from edgekd.runtime.tensors import DTYPES

MANIFEST_NAME = "manifest.json"
SIGNATURE_NAME = "manifest.sig"

LONGEST_TEXT = 1000
LARGEST_TENSOR = 2**31  # elements of one sample: what is larger no device of ours can hold
MOST_AXES = 32
_LONGEST_SHOWN = 300


def need(condition: bool, name: str, wanted: str) -> None:
    """Raise BundleError, saying what field ``name`` must be, unless ``condition`` holds."""
    if not condition:
        raise BundleError(f"{MANIFEST_NAME}: {shown(name)} must be {shown(wanted)}")


def shown(text: str) -> str:
    """Return a text of a stranger's file as a message may hold it: one line, and not endless."""
    clipped = text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."
    return "".join(letter if letter.isprintable() else "?" for letter in clipped)


def mapping(value: object, name: str) -> dict[str, Any]:
    """Return a JSON object; raises BundleError for anything else."""
    need(isinstance(value, dict), name, "a JSON object")
    return value  # type: ignore[return-value]  # JSON objects have string keys


def text(value: object, name: str) -> str:
    """Return a text that is not empty; raises BundleError for anything else.

    Names land in messages and on terminals, so control characters are refused.
    """
    need(isinstance(value, str) and value != "", name, "a text that is not empty")
    name_of_it = str(value)
    fits = len(name_of_it) <= LONGEST_TEXT and name_of_it.isprintable()
    need(fits, name, f"a text of at most {LONGEST_TEXT} printable characters")
    return name_of_it


def is_number(value: object) -> bool:
    """Tell whether a value is a number that float can hold; true and false are none."""
    if type(value) not in (int, float):
        return False
    try:
        return math.isfinite(value)  # type: ignore[arg-type]  # checked above
    except OverflowError:  # a whole number of hundreds of digits
        return False


def tensor_name(value: object, name: str) -> str:
    """Check the description of a tensor and return its name; raises BundleError."""
    tensor = mapping(value, name)
    need(tensor.get("dtype") in DTYPES.values(), f"{name}.dtype", "a numpy dtype name")
    shape = tensor.get("shape")
    need(
        isinstance(shape, list)
        and all(size is None or (type(size) is int and size > 0) for size in shape),
        f"{name}.shape",
        "a list of positive whole numbers or null",
    )
    assert isinstance(shape, list)
    fits = len(shape) <= MOST_AXES and _elements(shape) <= LARGEST_TENSOR
    need(fits, f"{name}.shape", f"of at most {MOST_AXES} axes and {LARGEST_TENSOR} elements")
    return text(tensor.get("name"), f"{name}.name")


def _elements(shape: list[Any]) -> int:
    count = 1
    for size in shape:
        count *= 1 if size is None else min(size, LARGEST_TENSOR + 1)
    return count
