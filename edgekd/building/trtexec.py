"""A build plan as options of ``trtexec``, for whichever TensorRT is on a device.

Sources: ``samples/common/sampleOptions.cpp`` of github.com/NVIDIA/TensorRT, whose help text names
every option, in its releases 8.5, 8.6 and 10; ``trtexec --help`` of 8.5.3; and NVIDIA's TensorRT
migration guide, "Migrating trtexec Usage" from 8.x to 10.x and from 10.x to 11.x.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from edgekd.engine.plan import BuildPlan
from edgekd.errors import BundleError
from edgekd.runtime.engine_manifest import ShapeRange

CHANGES = ((8, 0), (8, 4), (8, 6), (10, 0), (11, 0))
"""Versions, (major, minor), that understand other options than the one before."""

_COMPATIBLE = {"ampere_plus": "ampere+", "same_compute_capability": "sameComputeCapability"}
# Comma, colon and x divide a list of shapes, * stands for any name, quotes protect a colon.
_PLAIN = re.compile(r"[A-Za-z0-9_.:/+-]+")


def options(plan: BuildPlan, version: tuple[int, int], open_inputs: Collection[str]) -> list[str]:
    """Return the options that say how to build; those that name files are the caller's.

    ``version`` is the oldest TensorRT that has to understand them. ``open_inputs`` are the inputs
    with an open batch axis: trtexec takes no shapes for others. Nothing is run after the build, so
    that the defaults of the measurement, other ones from TensorRT 11 on, do not matter.

    Raises BundleError for what trtexec cannot be told.
    """
    found = ["--buildOnly"] if version < (8, 6) else ["--skipInference"]
    found += _types(plan, version)
    found += _shapes({name: plan.shapes[name] for name in open_inputs})
    if plan.sparse:
        found.append("--sparsity=enable")
    if plan.workspace_bytes is not None:
        mebibytes = max(1, plan.workspace_bytes // 2**20)  # the unit of a bare number
        before = "--workspace=" if version < (8, 4) else "--memPoolSize=workspace:"
        found.append(f"{before}{mebibytes}")
    if plan.dla_core is not None:
        found += [f"--useDLACore={plan.dla_core}", "--allowGPUFallback"]
    if version >= (8, 4):
        found.append("--profilingVerbosity=detailed")  # else the layers have names only
    return [*found, *_compatibility(plan, version)]


def open_inputs(shapes: Mapping[str, tuple[int | None, ...]]) -> list[str]:
    """Return the names of the inputs, given their shapes, that have an open axis."""
    return [name for name, shape in shapes.items() if None in shape]


def _types(plan: BuildPlan, version: tuple[int, int]) -> list[str]:
    if version >= (11, 0):
        return []  # every network is strongly typed
    if version >= (10, 0):
        return ["--stronglyTyped"]
    return [*(["--fp16"] if plan.float16 else []), *(["--int8"] if plan.int8 else [])]


def _shapes(shapes: Mapping[str, ShapeRange]) -> list[str]:
    if not shapes:
        return []
    for name in shapes:
        if _PLAIN.fullmatch(name) is None:
            raise BundleError(f"trtexec cannot be given shapes of an input that is called {name!r}")

    def listed(sizes: Mapping[str, tuple[int, ...]]) -> str:
        return ",".join(
            f"{_protected(name)}:{'x'.join(map(str, shape))}" for name, shape in sizes.items()
        )

    return [
        f"--minShapes={listed({name: s.smallest for name, s in shapes.items()})}",
        f"--optShapes={listed({name: s.best for name, s in shapes.items()})}",
        f"--maxShapes={listed({name: s.largest for name, s in shapes.items()})}",
    ]


def _protected(name: str) -> str:
    return f"'{name}'" if ":" in name else name


def _compatibility(plan: BuildPlan, version: tuple[int, int]) -> list[str]:
    found = ["--versionCompatible"] if plan.version_compatible else []
    if plan.hardware_compatible != "none":
        found.append(f"--hardwareCompatibilityLevel={_COMPATIBLE[plan.hardware_compatible]}")
    if found and version < (8, 6):
        raise BundleError("compatible engines need TensorRT 8.6 or newer")
    return found
