"""A tiny bundle: y = x @ W (compressed) and the same with another W (baseline)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

Write = Callable[[dict[str, Any]], None]


def linear(weight: np.ndarray, features: str = "y") -> bytes:
    """x float32 (N, 3, 2, 2) -> flatten -> x @ weight."""
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["x"], ["flat"]),
            helper.make_node("MatMul", ["flat", "w"], [features]),
        ],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 2, 2])],
        [helper.make_tensor_value_info(features, TensorProto.FLOAT, ["N", weight.shape[1]])],
        [numpy_helper.from_array(weight, "w")],
    )
    return save(graph)


def two_by_two() -> bytes:
    """a, b float32 (N, 3) -> total = a + b, gap = a - b."""
    tensors = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3])
        for name in ("a", "b", "total", "gap")
    }
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["a", "b"], ["total"]),
            helper.make_node("Sub", ["a", "b"], ["gap"]),
        ],
        "two_by_two",
        [tensors["a"], tensors["b"]],
        [tensors["total"], tensors["gap"]],
    )
    return save(graph)


def save(graph: onnx.GraphProto) -> bytes:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def tensor(name: str, *shape: int | None) -> dict[str, Any]:
    return {"name": name, "dtype": "float32", "shape": list(shape)}


def write(folder: Path, files: dict[str, bytes], manifest: dict[str, Any]) -> dict[str, Any]:
    """Write files and a manifest with their true hashes; return the manifest."""
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    entries = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        for name, content in files.items()
    }
    manifest = {**manifest, "files": entries}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return manifest


def manifest_data() -> dict[str, Any]:
    return {
        "format_version": 1,
        "name": "tiny",
        "created": "2026-01-01T00:00:00Z",
        "target": {"name": "cpu", "runtime": "onnxruntime"},
        "models": {"compressed": "model.onnx", "baseline": "baseline.onnx"},
        "spec": {"inputs": [tensor("x", None, 3, 2, 2)], "outputs": [tensor("y", None, 5)]},
        "preprocessing": {"x": {"layout": "NHWC", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]}},
        "classes": ["a", "b", "c", "d", "e"],
        "task": "classification",
    }


WEIGHT = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)


@pytest.fixture
def weight() -> np.ndarray:
    return WEIGHT


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A sound bundle on disk."""
    files = {
        "model.onnx": linear(WEIGHT),
        "baseline.onnx": linear(2 * WEIGHT),
        "report.html": b"<html></html>",
    }
    write(tmp_path / "tiny", files, manifest_data())
    return tmp_path / "tiny"


@pytest.fixture
def pair_bundle(tmp_path: Path) -> Path:
    """A bundle whose model has two inputs and two outputs, and no preprocessing."""
    spec = {
        "inputs": [tensor("a", None, 3), tensor("b", None, 3)],
        "outputs": [tensor("total", None, 3), tensor("gap", None, 3)],
    }
    data = {**manifest_data(), "spec": spec, "preprocessing": {}, "classes": None, "task": "other"}
    data["models"] = {"compressed": "model.onnx"}
    write(tmp_path / "pair", {"model.onnx": two_by_two()}, data)
    return tmp_path / "pair"


@pytest.fixture
def rewrite(bundle: Path) -> Write:
    """Return a function that changes top-level fields of the bundle's manifest (None: as null)."""

    def change(fields: dict[str, Any]) -> None:
        path = bundle / "manifest.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return change
