"""The options of trtexec for each TensorRT."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from edgekd.building.trtexec import CHANGES, open_inputs, options
from edgekd.engine.plan import BuildPlan
from edgekd.errors import BundleError
from edgekd.runtime.engine_manifest import ShapeRange

PLAN = BuildPlan(
    "model.onnx",
    {"x": ShapeRange((1, 3), (2, 3), (8, 3)), "fixed": ShapeRange((4,), (4,), (4,))},
    float16=True,
    int8=True,
    sparse=True,
    workspace_bytes=3 * 2**20 + 1,
)
SHAPES = ["--minShapes=x:1x3", "--optShapes=x:2x3", "--maxShapes=x:8x3"]


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ((8, 0), ["--buildOnly", "--fp16", "--int8", *SHAPES, "--workspace=3"]),
        ((8, 4), ["--buildOnly", "--fp16", "--int8", *SHAPES, "--memPoolSize=workspace:3"]),
        ((8, 6), ["--skipInference", "--fp16", "--int8", *SHAPES, "--memPoolSize=workspace:3"]),
        ((10, 0), ["--skipInference", "--stronglyTyped", *SHAPES, "--memPoolSize=workspace:3"]),
        ((11, 0), ["--skipInference", *SHAPES, "--memPoolSize=workspace:3"]),
    ],
)
def test_each_version_has_its_own(version: tuple[int, int], expected: list[str]) -> None:
    found = options(PLAN, version, ["x"])
    detailed = ["--profilingVerbosity=detailed"] if version >= (8, 4) else []
    assert found == [*expected[:-1], "--sparsity=enable", expected[-1], *detailed]


@pytest.mark.parametrize("version", CHANGES)
def test_nothing_is_said_that_was_not_asked_for(version: tuple[int, int]) -> None:
    found = options(BuildPlan("model.onnx", {"x": ShapeRange((1,), (1,), (1,))}), version, [])
    words = {option.split("=")[0] for option in found}
    assert words <= {
        "--buildOnly",
        "--skipInference",
        "--stronglyTyped",
        "--profilingVerbosity",
    }


def test_dla_and_compatible_engines() -> None:
    plan = dataclasses.replace(
        PLAN, dla_core=1, version_compatible=True, hardware_compatible="ampere_plus"
    )
    found = options(plan, (10, 0), [])
    assert "--useDLACore=1" in found and "--allowGPUFallback" in found
    assert "--versionCompatible" in found and "--hardwareCompatibilityLevel=ampere+" in found
    with pytest.raises(BundleError, match=r"need TensorRT 8\.6"):
        options(plan, (8, 5), [])


def test_only_an_open_axis_gets_shapes() -> None:
    assert open_inputs({"x": (None, 3), "fixed": (4,)}) == ["x"]
    assert not [o for o in options(PLAN, (10, 0), []) if "Shapes" in o]


@pytest.mark.parametrize(
    ("name", "written"), [("in.put/0-a+b", "in.put/0-a+b:1"), ("in:0", "'in:0':1")]
)
def test_a_colon_in_a_name_is_protected(name: str, written: str) -> None:
    plan = BuildPlan("model.onnx", {name: ShapeRange((1,), (1,), (1,))})
    assert f"--minShapes={written}" in options(plan, (8, 5), [name])


@pytest.mark.parametrize("name", ["a,b", "a*", "a'b", "a b", "", "é", "a\n", "$(x)", 'a"', "a=b"])
def test_names_that_trtexec_would_misread_are_refused(name: Any) -> None:
    plan = BuildPlan("model.onnx", {name: ShapeRange((1,), (1,), (1,))})
    with pytest.raises(BundleError, match="trtexec cannot be given shapes"):
        options(plan, (8, 5), [name])
