"""Bundles of small networks, written without a compression."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekd.spec import ModelSpec, TensorSpec


def write_bundle(
    folder: Path,
    files: dict[str, bytes],
    spec: ModelSpec,
    runtime: str = "onnxruntime",
    **fields: Any,
) -> Path:
    """Write ``files``, of which ``model.onnx`` is the compressed model, with a true manifest."""
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    manifest = {
        "format_version": 1,
        "name": folder.name,
        "target": {"name": "a-board", "runtime": runtime},
        "models": {"compressed": "model.onnx"},
        "spec": spec.to_dict(),
        "preprocessing": {},
        "classes": None,
        "task": "other",
        "files": {
            name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
            for name, content in files.items()
        },
        **fields,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def convolutions() -> tuple[bytes, ModelSpec]:
    """Return a network of two convolutions and a matrix product, x (N, 3, 8, 8) -> y (N, 5)."""
    random = np.random.default_rng(0)
    shapes = {"a": (16, 3, 3, 3), "b": (16, 16, 3, 3), "w": (16, 5)}
    weights = [
        numpy_helper.from_array(random.normal(0, 0.2, shape).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "b"], ["d"], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["d"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    spec = ModelSpec(
        (TensorSpec("x", "float32", (None, 3, 8, 8)),), (TensorSpec("y", "float32", (None, 5)),)
    )
    ends = [
        helper.make_tensor_value_info(t.name, TensorProto.FLOAT, ["N", *t.shape[1:]])
        for t in (*spec.inputs, *spec.outputs)
    ]
    graph = helper.make_graph(nodes, "convolutions", ends[:1], ends[1:], weights)
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content, spec
