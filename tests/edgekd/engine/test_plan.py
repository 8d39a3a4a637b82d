"""Build plans as plain data: written, read, refused, and chosen by TensorRT's version."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.engine.plan import BuildPlan, describe_versions, plan_for
from edgekd.errors import BundleError
from edgekd.runtime.engine_manifest import COMPATIBILITIES, ShapeRange

SHAPES = {"x": ShapeRange((1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 8, 8))}
PLAN = BuildPlan("model.onnx", SHAPES)
PLANS = st.builds(
    BuildPlan,
    st.sampled_from(["model.onnx", "model_fp16.onnx"]),
    st.dictionaries(
        st.text(min_size=1),
        st.tuples(*[st.integers(1, 9)] * 3).map(lambda n: ShapeRange(*((i, 3) for i in sorted(n)))),
        max_size=3,
    ),
    float16=st.booleans(),
    int8=st.booleans(),
    sparse=st.booleans(),
    workspace_bytes=st.none() | st.integers(1, 2**40),
    dla_core=st.none() | st.integers(0, 1),
    version_compatible=st.booleans(),
    hardware_compatible=st.sampled_from(COMPATIBILITIES),
    compute_capabilities=st.lists(st.sampled_from(["8.7", "12.0"])).map(tuple),
)


def file(*variants: tuple[str, str | None, str]) -> dict[str, Any]:
    plans = [
        {"from": start, "below": below, "plan": BuildPlan(onnx, SHAPES).to_dict()}
        for start, below, onnx in variants
    ]
    return {"format_version": 1, "variants": plans}


@given(PLANS)
def test_a_plan_survives_json(plan: BuildPlan) -> None:
    assert BuildPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"onnx": "../model.onnx"}, "onnx must be a plain file name"),
        ({"onnx": None}, "onnx must be a plain file name"),
        ({"model": 1}, "model must be a text"),
        ({"float16": 1}, "must be true or false"),
        ({"workspace_bytes": 0}, "workspace_bytes must be"),
        ({"workspace_bytes": 1.5}, "workspace_bytes must be"),
        ({"dla_core": True}, "dla_core must be"),
        ({"hardware_compatible": "all"}, "hardware_compatible must be one of none"),
        ({"hardware_compatible": ["none"]}, "hardware_compatible must be one of none"),
        ({"compute_capabilities": ["87"]}, "compute_capabilities must be"),
        ({"compute_capabilities": 8.7}, "not a plan of edgekd"),
        ({"shapes": None}, "not a plan of edgekd"),
        ({"shapes": {"x": {"min": [2], "opt": [1], "max": [8]}}}, "that do not fall"),
        ({"shapes": {"x": {"min": [1], "opt": [1], "max": [2**31]}}}, "that do not fall"),
        ({"shapes": {"x": {"min": [1], "opt": [1, 1], "max": [8]}}}, "that do not fall"),
        ({"shapes": {"x": {"min": ["1"], "opt": ["1"], "max": ["8"]}}}, "whole numbers"),
        ({"shapes": {"x": {"min": [1]}}}, "not a plan of edgekd"),
        ({"more": 1}, "not a plan of edgekd"),
    ],
)
def test_refuses_what_is_no_plan(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(BundleError, match=words) as caught:
        BuildPlan.from_dict({**PLAN.to_dict(), **changed})
    assert "build.json" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("version", "onnx"),
    [
        ("8.5", "old.onnx"),
        ("8.5.2.2", "old.onnx"),
        ("8.6.1.post1", "old.onnx"),
        ("9.3.0", "old.onnx"),
        ("10.0.1", "new.onnx"),
        ("10.16.2", "new.onnx"),
        ("11.4.1", "new.onnx"),
    ],
)
def test_the_version_chooses(version: str, onnx: str) -> None:
    data = file(("8.5", "10.0", "old.onnx"), ("10.0", None, "new.onnx"))
    assert plan_for(data, version).onnx == onnx


def test_says_which_versions_there_are() -> None:
    data = file(("8.5", "10.0", "a.onnx"), ("10.0", None, "b.onnx"))
    assert describe_versions(data) == "8.5 to below 10.0, 10.0 and newer"
    with pytest.raises(BundleError, match=r"no model for TensorRT 8\.4\.1, only for 8\.5 to below"):
        plan_for(data, "8.4.1")
    with pytest.raises(BundleError, match=r"only for 8\.5 to below 10\.0:"):
        plan_for(file(("8.5", "10.0", "a.onnx")), "10.3.0")


@pytest.mark.parametrize(
    "data",
    [
        {},
        [],
        None,
        {"format_version": 1},
        {"format_version": 1, "variants": [{"from": 8}]},
        {"format_version": 1, "variants": [{"from": "8.5", "below": None}]},
        {"format_version": 1, "variants": {"from": "8.5"}},
        {"format_version": 2, "variants": []},
    ],
)
def test_refuses_what_is_no_build_file(data: Any) -> None:
    with pytest.raises(BundleError, match=r"build\.json"):
        plan_for(data, "10.3.0")
