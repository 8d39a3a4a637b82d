"""Checks of plain JSON data that name the field they refuse."""

from __future__ import annotations

from typing import Any

from edgekd.errors import BundleError
from edgekd.runtime.tensors import DTYPES

MANIFEST_NAME = "manifest.json"


def need(condition: bool, name: str, wanted: str) -> None:
    """Raise BundleError, saying what field ``name`` must be, unless ``condition`` holds."""
    if not condition:
        raise BundleError(f"{MANIFEST_NAME}: {name} must be {wanted}")


def mapping(value: object, name: str) -> dict[str, Any]:
    """Return a JSON object; raises BundleError for anything else."""
    need(isinstance(value, dict), name, "a JSON object")
    return value  # type: ignore[return-value]  # JSON objects have string keys


def text(value: object, name: str) -> str:
    """Return a text that is not empty; raises BundleError for anything else."""
    need(isinstance(value, str) and value != "", name, "a text that is not empty")
    return str(value)


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
    return text(tensor.get("name"), f"{name}.name")
