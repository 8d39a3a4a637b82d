"""An entry of the manifest's engines, and a machine that it fits."""

from __future__ import annotations

from typing import Any

from edgekd.runtime.cuda import GpuMachine
from edgekd.runtime.engine_manifest import EngineEntry, parse_engines

FILES, MODELS, INPUTS = ("model.onnx", "model.engine"), ("compressed", "baseline"), ("x",)
ENTRY: dict[str, Any] = {
    "file": "model.engine",
    "model": "compressed",
    "onnx": "model.onnx",
    "binding": "tensorrt",
    "version": "10.3.0",
    "compute_capabilities": ["8.7"],
    "cuda": "12.6",
    "platform": "linux-aarch64",
    "version_compatible": False,
    "hardware_compatible": "none",
    "shapes": {"x": {"min": [1, 3], "opt": [8, 3], "max": [64, 3]}},
    "dla_core": None,
}
ORIN = GpuMachine("Orin", "8.7", "12.6", "linux-aarch64", 8 << 30)


def parse(entry: object) -> EngineEntry:
    (found,) = parse_engines([entry], FILES, MODELS, INPUTS)
    return found
