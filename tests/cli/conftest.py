"""A small bundle and data for it: 2x2 colour images whose class is their brightest channel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.export.bundle import write_bundle

N_SAMPLES = 40


def classifier(weight: np.ndarray) -> bytes:
    """images float32 (N, 3, 2, 2) -> mean over pixels -> @ weight."""
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["images"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("MatMul", ["flat", "w"], ["logits"]),
        ],
        "classifier",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 2, 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(weight.astype(np.float32), "w")],
    )
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def manifest() -> dict[str, Any]:
    layer = {"name": "fc", "op": "MatMul", "kernel": "QLinearMatMul", "precision": "int8"}
    layer |= {"bits": "w4a8", "weight_scales": [0.0123, 0.456], "input_scale": 0.03125}
    floating = {"name": "pool[0]", "op": "ReduceMean", "kernel": "ReduceMean"}
    duet = {"original": {"median_ms": 2.0, "ratio": None}, "quantize": {"median_ms": 1, "ratio": 2}}
    stage = {"metric": "top1", "drop_points": 0.0, "model_bytes": 2000, "seconds": 3.0}
    return {
        "format_version": 1,
        "name": "tiny",
        "created": "2026-01-01T00:00:00Z",
        "target": {"name": "cpu", "runtime": "onnxruntime"},
        "models": {"compressed": "model.onnx", "baseline": "baseline.onnx"},
        "spec": {
            "inputs": [{"name": "images", "dtype": "float32", "shape": [None, 3, 2, 2]}],
            "outputs": [{"name": "logits", "dtype": "float32", "shape": [None, 3]}],
        },
        "preprocessing": {"images": {"layout": "NHWC", "mean": [0.5] * 3, "std": [0.2] * 3}},
        "classes": ["red", "green", "blue"],
        "task": "classification",
        "seed": 0,
        "source": {"file": "tiny.pt"},
        "stages": [
            {**stage, "name": "original", "accuracy": 0.9164, "latency": None},
            {**stage, "name": "quantize", "accuracy": 0.9, "latency": {"models": duet}},
        ],
        "parity": {
            "samples": 40,
            "agreement": 0.997,
            "accuracy_gap_points": 0.1,
            "max_difference": 0.8,
            "passed": True,
        },
        "kernels": {
            "runtime": "onnxruntime 1.31",
            "integer_layers": 1,
            "layers_total": 1,
            "integer_sums": 0,
            "sums_total": 0,
            "operations": {"QLinearMatMul": 1},
            "layers": [
                {**layer, "reason": ""},
                {**floating, "precision": "float32", "reason": "no integer kernel"},
            ],
        },
    }


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """The compressed model takes blue (class 2) for red (class 0)."""
    good = np.eye(3)
    bad = np.zeros((3, 3))
    bad[1] = [-1, 1, 0]  # looks at green only
    files = {"model.onnx": classifier(bad), "baseline.onnx": classifier(good)}
    return write_bundle(tmp_path / "tiny", files, manifest(), overwrite=False)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    labels = np.repeat([0, 0, 1, 2], N_SAMPLES // 4)
    images = np.random.default_rng(0).integers(0, 100, (N_SAMPLES, 2, 2, 3), dtype=np.uint8)
    images[np.arange(N_SAMPLES), :, :, labels] = 200
    path = tmp_path / "data.npz"
    np.savez(path, x_train=images[:, ::-1], y_train=labels, x_val=images, y_val=labels)
    return path


BLOCK = """
import importlib.abc, sys

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
"""


@pytest.fixture
def without(tmp_path: Path) -> Callable[..., str]:
    """Return a folder for PYTHONPATH that hides the packages named."""

    def block(*packages: str) -> str:
        (tmp_path / "sitecustomize.py").write_text(BLOCK.format(blocked=set(packages)))
        return str(tmp_path)

    return block


@pytest.fixture
def without_torch(without: Callable[..., str]) -> str:
    """A folder for PYTHONPATH that makes a light install of any interpreter."""
    return without("torch", "onnx", "onnxscript", "safetensors", "sklearn")
