"""How an engine is to be built: plain data, in ``build.json``, over SSH and for trtexec alike."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgekd.errors import BundleError
from edgekd.runtime.engine_manifest import COMPATIBILITIES, ShapeRange

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
            shapes = {
                str(name): ShapeRange(*(tuple(map(int, s[key])) for key in ("min", "opt", "max")))
                for name, s in data["shapes"].items()
            }
            plan = cls(
                **{
                    **data,
                    "shapes": shapes,
                    "compute_capabilities": tuple(data.get("compute_capabilities", ())),
                }
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise BundleError(f"{PLAN_NAME} is not a plan of edgekd: {error}") from error
        if plan.hardware_compatible not in COMPATIBILITIES:
            raise BundleError(
                f"{PLAN_NAME}: hardware_compatible must be one of {', '.join(COMPATIBILITIES)}"
            )
        return plan


def plan_for(data: Mapping[str, Any], version: str) -> BuildPlan:
    """Return the plan of a ``build.json`` for a version of TensorRT.

    ``data`` has ``variants``: each with ``from`` and ``below`` (``below`` null: no limit), two
    versions, and a ``plan``. Raises BundleError where none covers the version.
    """
    try:
        for variant in data["variants"]:
            newest = variant["below"]
            if _numbers(version) >= _numbers(variant["from"]) and (
                newest is None or _numbers(version) < _numbers(newest)
            ):
                return BuildPlan.from_dict(variant["plan"])
        ranges = [f"{v['from']} to below {v['below'] or 'any'}" for v in data["variants"]]
    except (AttributeError, KeyError, TypeError) as error:
        raise BundleError(f"{PLAN_NAME} is not a plan of edgekd: {error}") from error
    raise BundleError(
        f"the bundle has no model for TensorRT {version}, only for {'; '.join(ranges)}: compress "
        "again with a profile for it"
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))
