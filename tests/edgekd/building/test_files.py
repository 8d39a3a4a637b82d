"""What ``compress`` adds to a bundle for TensorRT, by whole runs on a small network."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import yaml
from onnx import TensorProto, numpy_helper
from torch import nn

from edgekd.building.plan import build_file
from edgekd.engine.plan import plan_for
from edgekd.export.half_rounding import with_rounding
from edgekd.export.tensorrt_rules import check_tensorrt
from edgekd.job import CompressRequest
from edgekd.model.save import save_model
from edgekd.pipeline import CompressResult, compress
from edgekd.runtime.bundle import read_manifest, verify

QUANTIZE = {"stage": "quantize", "calibration": {"method": "minmax"}, "distill": None}
Run = Callable[..., CompressResult]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Compress a small network whose last layer is ``loud`` times as large."""
    folder = tmp_path_factory.mktemp("files")
    generator = np.random.default_rng(0)
    x = generator.normal(size=(80, 16)).astype(np.float32)
    np.savez(folder / "data.npz", x=x, y=generator.integers(0, 3, len(x)))
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"name": "ptq", "stages": [QUANTIZE]}))

    def make(target: str, loud: float = 1.0) -> CompressResult:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 3)).eval()
        with torch.no_grad():
            net[2].weight.mul_(loud)
        save_model(net, torch.from_numpy(x[:2]), folder / "model.pt2")
        request = CompressRequest(
            folder / "model.pt2",
            str(folder / "data.npz"),
            target=target,
            recipe=str(folder / "recipe.yaml"),
            out=folder / f"{target}-{loud:g}",
            cache=folder / "cache",
        )
        return compress(request)

    return make


@pytest.fixture(scope="module")
def jetson(run: Run) -> CompressResult:
    return run("jetson")


def files_of(result: CompressResult) -> set[str]:
    verify(result.out, read_manifest(result.out))
    return set(result.manifest["files"])


def integers(model: onnx.ModelProto) -> list[np.ndarray[Any, Any]]:
    stored = [numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    return sorted((a for a in stored if a.dtype == np.int8), key=lambda a: a.tobytes())


def test_a_jetson_bundle_can_be_built_by_every_version(jetson: CompressResult) -> None:
    assert {"build.json", "build.sh", "model_fp16.onnx"} <= files_of(jetson)
    data = json.loads((jetson.out / "build.json").read_text())
    assert data == build_file(jetson.manifest)
    assert plan_for(data, "8.5.2").onnx == "model.onnx"
    assert plan_for(data, "10.3.0").onnx == "model_fp16.onnx"
    assert (jetson.out / "build.sh").read_text().startswith("#!/bin/sh\n")
    assert any("sh build.sh" in note for note in jetson.manifest["notes"])


def test_the_copy_is_the_same_model_in_float16(jetson: CompressResult) -> None:
    model, half = (onnx.load(jetson.out / name) for name in ("model.onnx", "model_fp16.onnx"))
    facts = jetson.manifest["float16_model"]
    assert facts["file"] == "model_fp16.onnx" and facts["kept_float32"] == {}
    assert half.opset_import[0].version == facts["opset"] == 20
    before, after = ({t.data_type for t in m.graph.initializer} for m in (model, half))
    assert TensorProto.FLOAT16 in after and TensorProto.FLOAT16 not in before
    assert [v.name for v in half.graph.input] == [v.name for v in model.graph.input]
    for mine, other in zip(integers(half), integers(model), strict=True):
        assert np.array_equal(mine, other)
    assert check_tensorrt(half.SerializeToString(), opset=20) == ()


def test_what_the_manifest_says_of_its_answers_is_so(jetson: CompressResult, run: Run) -> None:
    proof = jetson.manifest["float16_model"]["parity"]
    assert proof["passed"] and proof["float16"]
    with np.load(jetson.out.parent / "data.npz") as data:
        x = data["x"]
    outputs = []
    for model in (
        (jetson.out / "model.onnx").read_bytes(),
        with_rounding((jetson.out / "model_fp16.onnx").read_bytes()),
    ):
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        outputs.append(session.run(None, {session.get_inputs()[0].name: x})[0])
    exact, rounded = outputs
    assert np.abs(exact - rounded).max() > 0  # FP16 is not FP32
    assert proof["max_difference"] <= np.abs(exact - rounded).max() + 1e-6


def test_where_float16_overflows_there_is_no_copy_and_a_note(run: Run) -> None:
    result = run("jetson", loud=3e5)
    assert "model_fp16.onnx" not in files_of(result)
    facts = result.manifest["float16_model"]
    assert facts["file"] is None
    assert facts["reason"].startswith("in FP16 the model gives")
    (note,) = [n for n in result.manifest["notes"] if "model_fp16.onnx" in n]
    assert note.startswith("TensorRT 10 and newer compute whatever is not quantized in FP32")
    assert facts["reason"] in note and "\n" not in note
    data = json.loads((result.out / "build.json").read_text())
    assert plan_for(data, "10.3.0").onnx == "model.onnx"


@pytest.mark.slow
def test_a_float16_profile_needs_no_copy(run: Run) -> None:
    result = run("jetson-orin-nano-super")
    assert {"build.json", "build.sh"} <= files_of(result)
    assert "model_fp16.onnx" not in files_of(result) and "float16_model" not in result.manifest
    data = json.loads((result.out / "build.json").read_text())
    assert plan_for(data, "10.3.0").onnx == "model.onnx"


@pytest.mark.slow
def test_other_runtimes_get_no_such_files(run: Run) -> None:
    found = files_of(run("raspberry-pi-5"))
    assert not {"build.json", "build.sh", "model_fp16.onnx"} & found


def test_the_real_builder_takes_both(jetson: CompressResult) -> None:
    trt = pytest.importorskip(
        "tensorrt_rtx",
        reason="needs TensorRT-RTX: pip install 'edgekd[trt-check]'",
        exc_type=ImportError,
    )
    data = build_file(jetson.manifest)
    for version in ("8.5", "11.4"):
        plan = plan_for(data, version)
        builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
        network = builder.create_network(0)
        parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
        assert parser.parse((jetson.out / plan.onnx).read_bytes())
        config, profile = builder.create_builder_config(), builder.create_optimization_profile()
        for name, sizes in plan.shapes.items():
            profile.set_shape(name, sizes.smallest, sizes.best, sizes.largest)
        config.add_optimization_profile(profile)
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM86, 0)
        assert builder.build_serialized_network(network, config).nbytes > 0
