"""Building over SSH: the board builds, what it wrote comes back, and nothing stays there."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.building.plan import build_file, to_json
from edgekd.building.script import SCRIPT_NAME, build_script
from edgekd.device import load_profile
from edgekd.engine.plan import PLAN_NAME
from edgekd.export.bundle import write_bundle
from edgekd.runtime.bundle import read_manifest, verify
from edgekd.runtime.cuda import why_no_gpu
from edgekd.spec import ModelSpec, TensorSpec

SPEC = ModelSpec((TensorSpec("x", "float32", (None, 4)),), (TensorSpec("y", "float32", (None, 4)),))
NEEDS_RTX = pytest.mark.skipif(
    find_spec("tensorrt_rtx") is None,
    reason="needs TensorRT-RTX: pip install 'edgekd[trt-check]'",
)
RTX = ("--binding", "tensorrt_rtx", "--compute-capability", "8.6")
WITHOUT = pytest.mark.skipif(
    find_spec("tensorrt") is not None or find_spec("tensorrt_rtx") is not None,
    reason="this machine has TensorRT",
)


def relu_of_a_product() -> bytes:
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("x", "y")
    )
    weight = numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"], "product"),
        helper.make_node("Relu", ["p"], ["y"], "relu"),
    ]
    graph = helper.make_graph(nodes, "graph", [x], [y], [weight])
    opsets = [helper.make_opsetid("", 17)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    model = relu_of_a_product()
    manifest = {
        "format_version": 1,
        "name": "small",
        "target": load_profile("jetson").model_dump(mode="json"),
        "models": {"compressed": "model.onnx", "baseline": "model.onnx"},
        "spec": SPEC.to_dict(),
        "preprocessing": {},
        "classes": None,
        "task": "other",
        "kernels": {"operations": {"MatMul": 1, "Relu": 1}},
        "stages": [],
    }
    plans = build_file(manifest)
    files: dict[str, bytes | Path] = {
        "model.onnx": model,
        PLAN_NAME: to_json(plans),
        SCRIPT_NAME: build_script(plans, SPEC),
    }
    return write_bundle(tmp_path / "bundle", files, manifest, overwrite=False)


@pytest.fixture
def build(run_cli: Any, sshd: Any, interpreter: Any, bundle: Path) -> Any:
    """Run ``edgekd build`` for the bundle on the board, and look that nothing stays there."""

    def run(*arguments: str, **settings: str) -> Any:
        config = sshd.config("build", **settings)
        device = ("--device", "ssh://board", "--device-python", str(interpreter.path))
        done = run_cli("build", str(bundle), *device, "--ssh-config", str(config), *arguments)
        assert list(interpreter.temporary.iterdir()) == []
        return done

    return run


def content(bundle: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in bundle.iterdir()}


def refused(done: Any, words: str) -> None:
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: ssh://board") and words in line


@WITHOUT
def test_a_board_without_tensorrt_is_an_error_and_the_bundle_as_it_was(
    build: Any, bundle: Path
) -> None:
    before = content(bundle)
    refused(build(), "its Python has no tensorrt: run there sudo apt install python3-libnvinfer")
    refused(build("--binding", "tensorrt_rtx"), "-m pip install tensorrt_rtx")
    assert content(bundle) == before


def test_a_board_that_cannot_be_reached(build: Any, bundle: Path) -> None:
    before = content(bundle)
    refused(build(Port="1"), "cannot be reached")
    assert content(bundle) == before


def test_what_the_process_says_is_the_boards(build: Any, bundle: Path, interpreter: Any) -> None:
    """A module that is called tensorrt but is none: the process itself finds that out."""
    fake = interpreter.path.parent / "modules"
    fake.mkdir()
    (fake / "tensorrt.py").write_text("raise ImportError('libnvinfer.so: not found')\n")
    interpreter.write(f"export PYTHONPATH='{fake}'")
    before = content(bundle)
    done = build("--binding", "tensorrt")
    reason = why_no_gpu()
    refused(done, "no usable NVIDIA GPU" if reason else "libnvinfer.so: not found")
    assert content(bundle) == before


@NEEDS_RTX
def test_an_engine_comes_back_into_the_bundle(build: Any, bundle: Path) -> None:
    done = build(*RTX, "--max-batch", "4", "--json")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    manifest = read_manifest(bundle)
    verify(bundle, manifest)
    (entry,) = manifest.engines
    assert (bundle / entry.file).stat().st_size == manifest.files[entry.file].size > 1000
    assert entry.binding == "tensorrt_rtx" and entry.onnx == "model.onnx"
    assert entry.shapes["x"].largest == (4, 4)
    assert shown["engine"]["file"] == entry.file and shown["passed"]
    if why_no_gpu() is not None:
        assert shown["engine"]["not_run"] == "no GPU here"


@NEEDS_RTX
def test_it_is_the_engine_that_is_built_here(
    build: Any, bundle: Path, tmp_path: Path, run_cli: Any
) -> None:
    done = build(*RTX, "--out", str(tmp_path / "there"))
    assert done.returncode == 0, done.stderr
    done = run_cli("build", str(bundle), *RTX, "--out", str(tmp_path / "here"))
    assert done.returncode == 0, done.stderr
    there, here = (read_manifest(tmp_path / name).engines[0] for name in ("there", "here"))
    assert there == here
