"""The script behind the runtime-overhead claim runs on a bundle and prints its table."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from edgekd.bench import runner
from edgekd.export.bundle import write_bundle

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "runtime_overhead.py"


def test_prints_one_row_for_every_process(make_model: Callable[..., Path], tmp_path: Path) -> None:
    def tensor(name: str) -> dict[str, object]:
        return {"name": name, "dtype": "float32", "shape": [None, 3, 4]}

    manifest = {
        "format_version": 1,
        "name": "tiny",
        "target": {"name": "cpu", "runtime": "onnxruntime"},
        "models": {"compressed": "model.onnx"},
        "spec": {"inputs": [tensor("x")], "outputs": [tensor("y")]},
        "preprocessing": {},
        "classes": None,
        "task": "other",
    }
    out = write_bundle(tmp_path / "b", {"model.onnx": make_model()}, manifest, overwrite=False)
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(out), "--processes", "2", "--rounds", "5"],
        capture_output=True,
        text=True,
        env=runner.worker_environment(),
        check=True,
    )
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["process", "0", "1", "median"]
    assert all(line.count("%") == 2 for line in lines[1:])
