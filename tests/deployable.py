"""Manifests and models for the tests of deploying."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def tensor(name: str, dtype: str = "float32", *shape: int | None) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": list(shape)}


def fields(**changed: Any) -> dict[str, Any]:
    """A manifest without its files; ``spec`` and whatever else a test needs are in ``changed``."""
    return {
        "format_version": 1,
        "name": "tiny",
        "target": {"name": "cpu", "runtime": "onnxruntime", "threads": 2},
        "models": {"compressed": "model.onnx", "baseline": "baseline.onnx"},
        "spec": {
            "inputs": [tensor("images", "float32", None, 3, 4, 4)],
            "outputs": [tensor("logits", "float32", None, 3)],
        },
        "preprocessing": {},
        "classes": None,
        "task": "other",
        **changed,
    }


def engine(file: str = "model.engine", **changed: Any) -> dict[str, Any]:
    shapes = {key: [size, 3, 4, 4] for key, size in (("min", 1), ("opt", 8), ("max", 32))}
    return {
        "file": file,
        "model": "compressed",
        "onnx": "model.onnx",
        "binding": "tensorrt",
        "version": "10.3.0",
        "compute_capabilities": ["8.7"],
        "cuda": "12.6",
        "platform": "linux-aarch64",
        "version_compatible": False,
        "hardware_compatible": "none",
        "shapes": {"images": shapes},
        **changed,
    }


def quantized() -> list[Any]:
    """images -> 8 bits -> convolution with a float bias, as a graph for TensorRT is written.

    ONNX Runtime, left alone, rounds the bias to a multiple of both scales, here 0.01.
    """
    return [
        helper.make_node("QuantizeLinear", ["images", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"]),
        helper.make_node("DequantizeLinear", ["wq", "scale", "zero"], ["w"]),
        helper.make_node("Conv", ["dq", "w", "bias"], ["c"]),
        helper.make_node("QuantizeLinear", ["c", "out_scale", "zero"], ["cq"]),
        helper.make_node("DequantizeLinear", ["cq", "out_scale", "zero"], ["logits"]),
    ]


def all_dtypes_model(names: dict[str, str]) -> bytes:
    """A quantized convolution, and one input and output of every dtype that comes back as it is."""
    info, types = helper.make_tensor_value_info, TensorProto
    kinds = {dtype: helper.np_dtype_to_tensor_dtype(np.dtype(dtype)) for dtype in names}
    graph = helper.make_graph(
        [
            *quantized(),
            *(helper.make_node("Identity", [names[d]], [f"out_{d}"]) for d in names),
            helper.make_node("Identity", ["open"], ["open_out"]),
        ],
        "all",
        [
            info("images", types.FLOAT, ["N", 2, 4, 4]),
            *(info(names[dtype], kinds[dtype], ["N", 3]) for dtype in names),
            info("open", types.FLOAT, ["N", "L"]),
        ],
        [
            info("logits", types.FLOAT, ["N", 1, 4, 4]),
            *(info(f"out_{dtype}", kinds[dtype], ["N", 3]) for dtype in names),
            info("open_out", types.FLOAT, ["N", "L"]),
        ],
        [
            numpy_helper.from_array(np.array(0.1, np.float32), "scale"),
            numpy_helper.from_array(np.array(0.001, np.float32), "out_scale"),
            numpy_helper.from_array(np.array(0, np.int8), "zero"),
            numpy_helper.from_array(np.ones((1, 2, 1, 1), np.int8), "wq"),
            numpy_helper.from_array(np.array([0.004], np.float32), "bias"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content
