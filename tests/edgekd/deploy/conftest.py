"""Bundles to deploy, and Triton's schema to read the result with."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from deployable import fields

from edgekd.export.bundle import write_bundle

Make = Callable[..., Path]
# A ModelProto: its ir_version, an empty graph, and the start of a producer_name of 10 bytes.
_EMPTY = b"\x08\x08\x3a\x00\x12\x0a"


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write a bundle. Deploying never opens a model, so their graphs are empty."""

    def write(files: dict[str, bytes] | None = None, **changed: Any) -> Path:
        engines = {entry["file"] for entry in changed.get("engines", ())}
        content = {name: f"bytes of {name}".encode() for name in engines}
        content |= {"model.onnx": _EMPTY + b"compressed", "baseline.onnx": _EMPTY + b"baseline__"}
        out = tmp_path / "bundle"
        return write_bundle(out, {**content, **(files or {})}, fields(**changed), overwrite=True)

    return write


@pytest.fixture(scope="session")
def schema() -> Any:
    """Triton's own protobuf schema, as NVIDIA's client package carries it."""
    found = importlib.util.find_spec("tritonclient")
    if found is None or not found.submodule_search_locations:
        pytest.skip('needs tritonclient: pip install "edgekd[dev]"')
    # Not imported as a package: that needs grpc, which parsing text does not.
    path = Path(found.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
