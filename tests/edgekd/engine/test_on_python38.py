"""What a Jetson with JetPack 5 runs: Python 3.8, the files that are copied to a board, and numpy.

An interpreter with numpy is named by EDGEKD_PYTHON38, or found by itself.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from edgekd_hardware.runner_archive import archive
from engines import QUANTIZED, manifest_data
from tensorrt_graphs import good_block

from edgekd.building.plan import build_file
from edgekd.runtime.cuda import why_no_gpu

VERSION = "import sys; print(sys.version_info[:2] == (3, 8))"
NEEDS_NUMPY = """
import numpy as np
from edgekd.engine.layers import read_layers, fallbacks
from edgekd.engine.verify import compare
from edgekd.engine.plan import BuildPlan
from edgekd.engine import worker, trial, latency, build, binding
layers = read_layers('{"Layers": [{"Name": "a", "Inputs": [{"Format/Datatype": "Half"}]}]}')
assert fallbacks(layers, ["a"]) == {"a": "float16"}
y = {"y": np.eye(4, dtype=np.float32)}
assert compare(y, y, precision="int8", logits=True, inputs="validation").passed
shapes = {"x": {"min": [1, 3], "opt": [1, 3], "max": [8, 3]}}
plan = BuildPlan.from_dict({"onnx": "model.onnx", "shapes": shapes})
assert BuildPlan.from_dict(plan.to_dict()) == plan
print("done")
"""


def candidates() -> Iterator[str]:
    yield from filter(None, [os.environ.get("EDGEKD_PYTHON38"), shutil.which("python3.8")])
    yield from map(str, (Path.home() / ".pyenv" / "versions").glob("3.8*/bin/python3.8"))


@pytest.fixture(scope="module")
def python38() -> str:
    for python in candidates():
        done = subprocess.run([python, "-c", VERSION], capture_output=True, text=True, check=False)
        if done.stdout.strip() == "True":
            return python
    pytest.skip("there is no Python 3.8 here")


@pytest.fixture(scope="module")
def numpy38(python38: str) -> str:
    done = subprocess.run([python38, "-c", "import numpy"], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"{python38} has no numpy; name one that has by EDGEKD_PYTHON38")
    return python38


@pytest.fixture(scope="module")
def board_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive that is copied to a board."""
    path = tmp_path_factory.mktemp("board") / "runner.zip"
    path.write_bytes(archive())
    return path


def run(
    python: str, files: object, *args: str, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(files)}
    return subprocess.run(
        [python, *args], input=stdin, env=environment, capture_output=True, text=True, check=False
    )


def test_every_file_compiles(python38: str, board_files: Path, tmp_path: Path) -> None:
    shutil.unpack_archive(board_files, tmp_path)
    done = run(python38, board_files, "-m", "compileall", "-q", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr


def test_modules_work_with_numpy_alone(numpy38: str, board_files: Path) -> None:
    done = run(numpy38, board_files, "-c", NEEDS_NUMPY)
    assert (done.stdout.strip(), done.returncode) == ("done", 0), done.stderr


def test_the_worker_says_what_is_missing(numpy38: str, board_files: Path, tmp_path: Path) -> None:
    (tmp_path / "tensorrt_rtx.py").write_text("raise ImportError('no such library')")
    job = json.dumps({"binding": "tensorrt_rtx"})
    files = f"{tmp_path}{os.pathsep}{board_files}"
    done = run(numpy38, files, "-m", "edgekd.engine.worker", stdin=job)
    assert done.returncode == 2 and done.stdout == ""
    assert (
        "tensorrt_rtx cannot be imported here: no such library"
        in done.stderr.strip().splitlines()[-1]
    )


@pytest.mark.skipif(why_no_gpu() is None, reason="this machine has a GPU")
def test_an_engine_is_built(numpy38: str, board_files: Path, tmp_path: Path) -> None:
    """The whole process as a board runs it, with the TensorRT that builds without a GPU."""
    if run(numpy38, board_files, "-c", "import tensorrt_rtx").returncode:
        pytest.skip(f"{numpy38} has no TensorRT-RTX: pip install tensorrt-rtx")
    (tmp_path / "model.onnx").write_bytes(good_block().SerializeToString())
    data = manifest_data()
    job = {
        "build": build_file(data),
        "onnx": {"model.onnx": str(tmp_path / "model.onnx")},
        "binding": None,
        "target_capability": "8.6",
        "spec": data["spec"],
        "stored": {"model.onnx": "int8"},
        "quantized": list(QUANTIZED),
        "logits": False,
        "timing_cache": None,
        "reference": None,
        "external_tactics": True,
        "write": {name: str(tmp_path / name) for name in ("engine", "timing_cache", "layers")},
    }
    done = run(numpy38, board_files, "-m", "edgekd.engine.worker", stdin=json.dumps(job))
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["engine"]["compute_capabilities"] == ["8.6"]
    assert (tmp_path / "engine").stat().st_size > 1000


def test_no_onnxruntime_is_needed(numpy38: str, board_files: Path) -> None:
    code = "import edgekd.engine.worker, sys; print('onnxruntime' in sys.modules)"
    assert run(numpy38, board_files, "-c", code).stdout.strip() == "False"
    assert find_spec("onnxruntime") is not None  # here it is, so that this tells something
