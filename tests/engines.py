"""A small bundle for TensorRT: the residual block of ``tensorrt_graphs``, and its manifest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tensorrt_graphs import good_block

from edgekd.building.plan import build_file, to_json
from edgekd.device import load_profile

QUANTIZED = ("a", "b")


def tensor(name: str) -> dict[str, Any]:
    return {"name": name, "dtype": "float32", "shape": [None, 4, 8, 8]}


def manifest_data(**changed: Any) -> dict[str, Any]:
    """The manifest but for its files; the target is a Jetson Orin Nano."""
    layers = [{"name": name, "precision": "int8"} for name in QUANTIZED]
    return {
        "format_version": 1,
        "name": "block",
        "target": load_profile("jetson").model_dump(mode="json"),
        "models": {"compressed": "model.onnx", "baseline": "baseline.onnx"},
        "spec": {"inputs": [tensor("x")], "outputs": [tensor("y")]},
        "preprocessing": {},
        "classes": None,
        "task": "other",
        "stages": [],
        "kernels": {
            "operations": {"Conv": 2, "QuantizeLinear": 2},
            "layers": layers,
            "integer_layers": len(layers),
        },
        **changed,
    }


def write_bundle(
    folder: Path, *, plan: bool = True, built_of: bytes | None = None, **changed: Any
) -> Path:
    """Write a sound bundle, with ``build.json`` unless it is to be an older one's.

    ``built_of`` is another model that engines are built of.
    """
    block = good_block().SerializeToString()
    data = manifest_data(**changed)
    files = {"model.onnx": block, "baseline.onnx": block, "report.html": b"<html></html>"}
    build = build_file(data)
    if built_of is not None:
        files["other.onnx"] = built_of
        for variant in build["variants"]:
            variant["plan"]["onnx"] = "other.onnx"
    if plan:
        files["build.json"] = to_json(build)
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    entries = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        for name, content in files.items()
    }
    (folder / "manifest.json").write_text(json.dumps({**data, "files": entries}))
    return folder
