"""Engines that run: verified, looked into and timed. Needs an NVIDIA GPU and TensorRT."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from engines import QUANTIZED, write_bundle
from tensorrt_graphs import good_block, set_scale

from edgekd.building.engine import Building, build_engine
from edgekd.building.wishes import Wishes
from edgekd.runtime import load
from edgekd.runtime.bundle import read_manifest
from edgekd.runtime.cuda import why_no_gpu

REASON = why_no_gpu()
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(REASON is not None, reason=f"needs an NVIDIA GPU: {REASON}"),
    pytest.mark.skipif(
        find_spec("tensorrt") is None and find_spec("tensorrt_rtx") is None,
        reason="needs TensorRT: pip install tensorrt",
    ),
]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Building:
    bundle = write_bundle(tmp_path_factory.mktemp("gpu") / "b")
    return build_engine(bundle, wishes=Wishes(max_batch=16), external_tactics=False)


def layers_of(built: Building) -> Any:
    assert built.bundle is not None
    return json.loads((built.bundle / built.entry["layers_file"]).read_text("utf-8"))


def test_an_engine_is_verified_against_its_onnx(built: Building) -> None:
    found = built.entry["verification"]
    assert found["passed"] and found["inputs"] == "random" and found["samples"] == 64
    assert 0 <= found["relative_error"] <= found["tolerance"]
    assert built.entry["not_run"] is None and built.entry["gpu"]


def test_latency_is_taken_with_and_without_a_graph_at_both_sizes(built: Building) -> None:
    one, most = built.entry["latency"]
    assert (one["shapes"]["x"][0], most["shapes"]["x"][0]) == (1, 16)
    for entry in (one, most):
        plain, graph = entry["without_graph"], entry["with_graph"]
        assert 0 < plain["median_ms"] <= plain["p90_ms"] <= plain["p99_ms"]
        assert graph is None or 0 < graph["median_ms"] <= graph["p99_ms"]


def test_layers_are_stored_with_their_precision_and_time(built: Building) -> None:
    layers, summary = layers_of(built)["layers"], built.entry["layers"]
    assert summary["count"] == len(layers) == sum(summary["precisions"].values())
    assert summary["quantized"] == len(QUANTIZED)
    assert not summary["fallbacks"]
    assert any(layer["milliseconds"] for layer in layers)


def test_the_bundle_opens_its_engine_by_itself(built: Building) -> None:
    assert built.bundle is not None
    x = np.random.default_rng(1).normal(size=(5, 4, 8, 8)).astype(np.float32)
    reference = ort.InferenceSession((built.bundle / "model.onnx").read_bytes())
    with load(built.bundle) as model:
        assert model.runtime == "tensorrt"
        difference = np.asarray(model(x=x)) - reference.run(None, {"x": x})[0]
    assert np.abs(difference).max() < 0.2


def test_building_again_replaces_the_engine(built: Building) -> None:
    assert built.bundle is not None
    again = build_engine(built.bundle, external_tactics=False)
    assert again.bundle == built.bundle
    assert len(read_manifest(built.bundle).engines) == 1


def test_an_engine_that_answers_otherwise_is_not_kept(tmp_path: Path) -> None:
    """The engine is built of one model, and has to answer as another does."""
    other = good_block()
    set_scale(other, "b", 0.02, 4)  # weights ten times as large
    bundle = write_bundle(tmp_path / "b", built_of=other.SerializeToString())
    before = (bundle / "manifest.json").read_bytes()
    result = build_engine(bundle, external_tactics=False)
    assert not result.passed and not result.entry["verification"]["passed"]
    assert (bundle / "manifest.json").read_bytes() == before
