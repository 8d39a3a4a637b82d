"""Building over SSH: the worker runs on the board, what it wrote comes back, nothing stays."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from edgekd_hardware.board import Board
from edgekd_hardware.ssh import Address, Connection

from edgekd.bench.place import Ended
from edgekd.building.plan import build_file
from edgekd.device import load_profile
from edgekd.runtime.cuda import why_no_gpu

NEEDS_RTX = pytest.mark.skipif(
    find_spec("tensorrt_rtx") is None,
    reason="needs TensorRT-RTX: pip install 'edgekd[trt-check]'",
)
WRITE = ("engine", "timing_cache", "layers")


@pytest.fixture
def board(sshd: Any, interpreter: Any) -> Iterator[Board]:
    python = str(interpreter.path)
    with Connection(Address("board"), python, sshd.config("build")) as connection:
        yield Board(connection)
    assert connection.left is None
    assert list(interpreter.temporary.iterdir()) == []


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph that every TensorRT takes: relu of a product."""
    onnx = pytest.importorskip("onnx")
    import numpy as np

    x, y = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 4])
        for name in "xy"
    )
    weight = onnx.numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "w"], ["p"], "product"),
        onnx.helper.make_node("Relu", ["p"], ["y"], "relu"),
    ]
    graph = onnx.helper.make_graph(nodes, "graph", [x], [y], [weight])
    made = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8
    )
    path = tmp_path_factory.mktemp("models") / "model.onnx"
    path.write_bytes(made.SerializeToString())
    return path


def run(board: Board, model: Path) -> Ended:
    tensor = {"dtype": "float32", "shape": [None, 4]}
    spec = {"inputs": [{"name": "x", **tensor}], "outputs": [{"name": "y", **tensor}]}
    manifest = {
        "target": load_profile("jetson").model_dump(mode="json"),
        "models": {"compressed": "model.onnx"},
        "spec": spec,
        "kernels": {"operations": {"MatMul": 1}},
        "stages": [],
    }
    job = {
        "build": build_file(manifest),
        "onnx": {"model.onnx": board.bring([model])[model]},
        "binding": None,
        "target_capability": "8.6",
        "spec": spec,
        "stored": {"model.onnx": "float32"},
        "quantized": [],
        "logits": False,
        "timing_cache": None,
        "reference": None,
        "external_tactics": True,
        "write": {name: board.output(name) for name in WRITE},
    }
    return board.run("edgekd.engine.worker", job, 120.0)


@pytest.mark.skipif(
    find_spec("tensorrt") is not None or find_spec("tensorrt_rtx") is not None,
    reason="this machine has TensorRT",
)
def test_a_board_without_tensorrt_says_so(board: Board, model: Path) -> None:
    done = run(board, model)
    assert done.code == 2
    last = done.stderr.strip().splitlines()[-1]
    assert "not installed here" in last and "python3-libnvinfer" in last


@NEEDS_RTX
def test_an_engine_comes_back_as_it_was_written(
    board: Board, model: Path, interpreter: Any
) -> None:
    done = run(board, model)
    assert done.code == 0, done.stderr
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    assert answer["engine"]["binding"] == "tensorrt_rtx"
    (there,) = interpreter.temporary.glob("*/engine")
    engine = board.fetch("engine")
    assert hashlib.sha256(engine).digest() == hashlib.sha256(there.read_bytes()).digest()
    assert len(engine) > 1000
    if why_no_gpu() is not None:
        assert answer["engine"]["compute_capabilities"] == ["8.6"]
        assert answer["not_run"] == "no GPU here"
