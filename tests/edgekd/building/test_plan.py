"""From a manifest to the plans of ``build.json``."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgekd.building.plan import build_file, runs_strongly_typed, to_json
from edgekd.device import list_profiles, load_profile
from edgekd.engine.plan import plan_for
from edgekd.errors import BundleError
from edgekd.runtime.engine_manifest import ShapeRange

RESNET = {"QuantizeLinear": 22, "DequantizeLinear": 44, "Conv": 21}
FLOAT = {"Conv": 21, "ReduceMean": 1}
TRANSFORMER = {"QuantizeLinear": 50, "ReduceMean": 27, "Pow": 13, "Sqrt": 13, "MatMul": 12}
IMAGE = {"name": "x", "dtype": "float32", "shape": [None, 3, 32, 32]}
HALF = {"file": "model_fp16.onnx"}


def manifest(
    target: str = "jetson",
    operations: dict[str, int] = RESNET,
    inputs: tuple[dict[str, Any], ...] = (IMAGE,),
    **more: Any,
) -> dict[str, Any]:
    return {
        "target": load_profile(target).model_dump(mode="json"),
        "models": {"compressed": "model.onnx", "baseline": "baseline.onnx"},
        "spec": {"inputs": list(inputs), "outputs": []},
        "kernels": {"operations": operations},
        "stages": [{"name": "original", "details": {}}],
        **more,
    }


def test_a_jetson_gets_a_plan_for_each_way_of_typing() -> None:
    data = build_file(manifest(float16_model=HALF))
    older, newer = plan_for(data, "8.5.2"), plan_for(data, "11.4.1")
    assert [v["from"] for v in data["variants"]] == ["8.5", "10.0"]
    assert (older.onnx, older.float16, older.int8) == ("model.onnx", True, True)
    assert (newer.onnx, newer.float16, newer.int8) == ("model_fp16.onnx", False, False)
    for plan in (older, newer):
        assert plan.model == "compressed" and plan.dla_core is None and not plan.sparse
        assert plan.shapes == {
            "x": ShapeRange((1, 3, 32, 32), (1, 3, 32, 32), (8, 3, 32, 32)),
        }
        assert plan.workspace_bytes == 2 * 2**30  # a quarter of 8 GiB
        assert not plan.version_compatible and plan.hardware_compatible == "none"
    assert json.loads(to_json(data)) == data


@pytest.mark.parametrize("more", [{}, {"float16_model": {"file": None, "reason": "why"}}])
def test_without_a_copy_in_float16_the_newer_ones_build_the_model(more: dict[str, Any]) -> None:
    assert plan_for(build_file(manifest(**more)), "10.3").onnx == "model.onnx"


def test_float16_profiles_have_one_file_for_the_versions_that_read_it() -> None:
    data = build_file(manifest("jetson-thor"))
    assert [(v["from"], v["below"]) for v in data["variants"]] == [("10.0", None)]
    assert plan_for(data, "10.13.3").onnx == "model.onnx"


def test_boards_that_stay_with_older_versions() -> None:
    xavier = build_file(manifest("jetson-xavier-nx"))
    assert [(v["from"], v["below"]) for v in xavier["variants"]] == [("8.5", "10.0")]
    nano = build_file(manifest("jetson-nano", FLOAT))
    assert [(v["from"], v["below"]) for v in nano["variants"]] == [("8.0", "10.0")]
    plan = plan_for(nano, "8.2.1")
    assert plan.float16 and not plan.int8  # nothing is quantized there


def test_a_layer_norm_in_parts_stays_out_of_float16_where_tensorrt_chooses() -> None:
    plan = plan_for(build_file(manifest(operations=TRANSFORMER)), "8.5.2")
    assert plan.int8 and not plan.float16


def test_zeros_that_pay_are_built_for() -> None:
    details = {"sparsity": {"faster": True, "layers": [{}]}}
    data = build_file(manifest(stages=[{"details": details}, {"details": {}}]))
    assert plan_for(data, "8.6").sparse and plan_for(data, "10.3").sparse
    slower = {"sparsity": {"faster": False, "layers": [{}]}}
    assert not plan_for(build_file(manifest(stages=[{"details": slower}])), "10.3").sparse


def test_the_largest_batch_can_be_said() -> None:
    fixed = {"name": "mask", "dtype": "float32", "shape": [4, 7]}
    plan = plan_for(build_file(manifest(inputs=(IMAGE, fixed)), max_batch=64), "10.3")
    assert plan.shapes["x"].largest == (64, 3, 32, 32)
    assert plan.shapes["mask"] == ShapeRange((4, 7), (4, 7), (4, 7))


def test_refuses_what_no_engine_can_be_built_of() -> None:
    with pytest.raises(BundleError, match="the bundle is for onnxruntime: compress again"):
        build_file(manifest("cpu"))
    open_length = {"name": "tokens", "dtype": "int64", "shape": [None, None]}
    with pytest.raises(BundleError, match="besides the batch is open in tokens"):
        build_file(manifest(inputs=(open_length,)))


def test_every_profile_for_tensorrt_has_a_plan_for_its_software() -> None:
    found = [profile for profile in list_profiles() if profile.runtime == "tensorrt"]
    for profile in found:
        data = build_file({**manifest(), "target": profile.model_dump(mode="json")})
        for stack in profile.software:
            plan_for(data, stack.tensorrt)
        assert data["variants"]
    assert len(found) > 10


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ({"opset": 17}, True),
        ({"opset": 17, "compute_capability": "8.6"}, True),
        ({"opset": 17, "compute_capability": "6.1"}, False),
        ({"opset": 20, "compute_capability": "6.1"}, True),  # no older version reads this opset
        ({"opset": 17, "software": [{"tensorrt": "8.5.2"}]}, False),
        ({"opset": 17, "software": [{"tensorrt": "8.5.2"}, {"tensorrt": "10.3"}]}, True),
    ],
)
def test_where_tensorrt_10_runs(target: dict[str, Any], expected: bool) -> None:
    assert runs_strongly_typed(target) is expected


def test_plans_need_no_torch_and_no_onnx(run_python: Any) -> None:
    code = (
        "import sys, edgekd.building.plan, edgekd.building.script;"
        "print([m for m in ('torch', 'onnx', 'pydantic') if m in sys.modules])"
    )
    done = run_python("-c", code)
    assert done.stdout.strip() == "[]", done.stderr
