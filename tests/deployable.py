"""Manifests for the tests of deploying: tensors, engines and all else as a test chooses."""

from __future__ import annotations

from typing import Any


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
