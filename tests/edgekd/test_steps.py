"""Steps for a runtime that takes every type from the graph: FP16, evaluated as FP16."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import yaml
from networks import Transformer, build
from onnx import TensorProto
from torch import nn

from edgekd.errors import ExportError
from edgekd.job import CompressRequest
from edgekd.model.save import save_model
from edgekd.pipeline import compress


def request(folder: Path, net: nn.Module) -> CompressRequest:
    x = np.random.default_rng(0).normal(size=(80, 6, 16)).astype(np.float32)
    save_model(net, torch.from_numpy(x[:2]), folder / "model.pt2")
    np.savez(folder / "data.npz", x=x)
    recipe = {"name": "fast", "stages": [{"stage": "quantize", "distill": None}]}
    (folder / "fast.yaml").write_text(yaml.safe_dump(recipe))
    return CompressRequest(
        folder / "model.pt2",
        str(folder / "data.npz"),
        target="jetson-orin-nano-jetpack7",
        recipe=str(folder / "fast.yaml"),
        out=folder / "out",
        cache=folder / "cache",
    )


def types(path: Path) -> set[int]:
    return {tensor.data_type for tensor in onnx.load(path).graph.initializer}


def test_the_compressed_model_is_in_float16_and_passes_every_check(tmp_path: Path) -> None:
    result = compress(request(tmp_path, build(Transformer)))
    assert result.passed, result.messages
    assert TensorProto.FLOAT16 in types(tmp_path / "out" / "model.onnx")
    assert TensorProto.FLOAT16 not in types(tmp_path / "out" / "baseline.onnx")
    layers = {layer["name"]: layer["precision"] for layer in result.manifest["kernels"]["layers"]}
    assert layers["qkv"] == layers["head"] == "int8" and "float16" in layers.values()
    assert "--stronglyTyped" in result.manifest["notes"][0]
    assert result.manifest["stages"][-1]["details"]["kept_float32"] == {}


def test_an_overflow_in_float16_is_an_error_that_names_the_layer(tmp_path: Path) -> None:
    net = build(Transformer)
    with torch.no_grad():
        net.head.weight.mul_(2.5e5)  # type: ignore[union-attr,operator]
    with pytest.raises(ExportError, match=r"in FP16 .* the rounding of head; use a device profile"):
        compress(request(tmp_path, net))
