"""How an engine is to be built: plain data, in ``build.json``, over SSH and for trtexec alike."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgekd.errors import BundleError
from edgekd.runtime.engine_manifest import COMPATIBILITIES, LARGEST_BATCH, ShapeRange
from edgekd.runtime.manifest import is_plain_name

PLAN_NAME = "build.json"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class BuildPlan:
    """What to build an engine from, and how.

    ``onnx`` is a file of the bundle, ``model`` the role of ``models`` whose answers it gives.
    ``float16`` and ``int8`` allow these in a weakly typed build (TensorRT 8); from 10 on the
    network is strongly typed and takes every type from the graph. ``sparse`` says that weights are
    2:4. ``workspace_bytes`` is the builder's limit (None: its own), ``dla_core`` the accelerator to
    use, the GPU running what it cannot. ``shapes`` is keyed by input.
    """

    onnx: str
    shapes: Mapping[str, ShapeRange]
    model: str = "compressed"
    float16: bool = False
    int8: bool = False
    sparse: bool = False
    workspace_bytes: int | None = None
    dla_core: int | None = None
    version_compatible: bool = False
    hardware_compatible: str = "none"
    compute_capabilities: tuple[str, ...] = field(default=())
    """For which GPUs TensorRT-RTX is to build where there is none; empty: the one that is here."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        shapes = {
            name: {"min": list(s.smallest), "opt": list(s.best), "max": list(s.largest)}
            for name, s in self.shapes.items()
        }
        return {
            "onnx": self.onnx,
            "model": self.model,
            "shapes": shapes,
            "float16": self.float16,
            "int8": self.int8,
            "sparse": self.sparse,
            "workspace_bytes": self.workspace_bytes,
            "dla_core": self.dla_core,
            "version_compatible": self.version_compatible,
            "hardware_compatible": self.hardware_compatible,
            "compute_capabilities": list(self.compute_capabilities),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> BuildPlan:
        """Read what ``to_dict`` wrote; raises BundleError for anything else."""
        try:
            shapes = {str(name): _range(entry) for name, entry in data["shapes"].items()}
            capabilities = tuple(data.get("compute_capabilities", ()))
            plan = cls(**{**data, "shapes": shapes, "compute_capabilities": capabilities})
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise BundleError(f"{PLAN_NAME} is not a plan of edgekd: {error}") from error
        _check(plan)
        return plan


def plan_for(data: Mapping[str, Any], version: str) -> BuildPlan:
    """Return the plan of a ``build.json`` for a version of TensorRT.

    ``data`` has ``format_version`` and ``variants``: each with ``from`` and ``below`` (``below``
    null: no limit), two versions, and a ``plan``. TensorRT-RTX 1 reads what TensorRT 11 reads, so
    ask for 11 there. Raises BundleError where none covers the version.
    """
    try:
        if data["format_version"] != FORMAT_VERSION:
            raise BundleError(
                f"{PLAN_NAME} has format {data['format_version']}, this edgekd reads "
                f"{FORMAT_VERSION}: update edgekd"
            )
        for variant in data["variants"]:
            newest = variant["below"]
            if _numbers(version) >= _numbers(variant["from"]) and (
                newest is None or _numbers(version) < _numbers(newest)
            ):
                return BuildPlan.from_dict(variant["plan"])
        ranges = describe_versions(data)
    except (AttributeError, KeyError, TypeError) as error:
        raise BundleError(f"{PLAN_NAME} is not a plan of edgekd: {error}") from error
    raise BundleError(
        f"the bundle has no model for TensorRT {version}, only for {ranges}: compress again with a "
        "profile for it"
    )


def describe_versions(data: Mapping[str, Any]) -> str:
    """Return the versions of TensorRT that a ``build.json`` is for, to be read by people."""
    return ", ".join(
        f"{v['from']} and newer" if v["below"] is None else f"{v['from']} to below {v['below']}"
        for v in data["variants"]
    )


def _range(entry: Mapping[str, Any]) -> ShapeRange:
    low, best, high = (tuple(entry[key]) for key in ("min", "opt", "max"))
    whole = all(type(size) is int for size in (*low, *best, *high))
    if not (whole and len(low) == len(best) == len(high)) or not all(
        0 < a <= b <= c <= LARGEST_BATCH
        for a, b, c in zip(low, best, high)  # noqa: B905 - strict= needs Python 3.10
    ):
        raise ValueError("min, opt and max of a shape must be whole numbers that do not fall")
    return ShapeRange(low, best, high)


def _check(plan: BuildPlan) -> None:
    """Raise BundleError unless every field has its type: the file may come from anywhere."""
    flags = (plan.float16, plan.int8, plan.sparse, plan.version_compatible)
    wanted = {
        "onnx must be a plain file name": is_plain_name(plan.onnx),
        "model must be a text": isinstance(plan.model, str),
        "float16, int8, sparse and version_compatible must be true or false": all(
            isinstance(flag, bool) for flag in flags
        ),
        "workspace_bytes must be a whole number above 0, or null": plan.workspace_bytes is None
        or (type(plan.workspace_bytes) is int and plan.workspace_bytes > 0),
        "dla_core must be a whole number, or null": plan.dla_core is None
        or (type(plan.dla_core) is int and plan.dla_core >= 0),
        "hardware_compatible must be one of " + ", ".join(COMPATIBILITIES): (
            isinstance(plan.hardware_compatible, str)
            and plan.hardware_compatible in COMPATIBILITIES
        ),
        "compute_capabilities must be numbers like 8.7, as texts": all(
            isinstance(entry, str) and re.fullmatch(r"\d{1,2}\.\d", entry)
            for entry in plan.compute_capabilities
        ),
    }
    for rule, holds in wanted.items():
        if not holds:
            raise BundleError(f"{PLAN_NAME}: {rule}")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))
