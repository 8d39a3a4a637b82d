"""What is copied to a board: enough to measure, and nothing but that."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path

from edgekd_hardware.runner_archive import ENTRIES, archive, sources

HEAVY = ("torch", "onnx", "pydantic", "typer", "platformdirs", "edgekd.bench.runner")


def test_it_is_complete_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "runner.zip"
    path.write_bytes(archive())
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        f"import {', '.join(ENTRIES)};"
        f"print([m for m in {HEAVY!r} if m in sys.modules]);"
        "print({m.__file__.startswith(sys.argv[1]) for n, m in sys.modules.items()"
        " if n.startswith('edgekd')})"
    )
    done = subprocess.run(  # -I: no PYTHONPATH, so nothing of this checkout
        [sys.executable, "-I", "-c", code, str(path)], capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == ["[]", "{True}"], done.stderr


def test_a_jetson_needs_no_onnxruntime_to_build(tmp_path: Path) -> None:
    path = tmp_path / "runner.zip"
    path.write_bytes(archive())
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        f"sys.modules.update(dict.fromkeys(('onnxruntime', 'openvino', *{HEAVY[:-1]!r})));"
        "import edgekd.engine.worker"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_state_needs_the_standard_library_only(tmp_path: Path) -> None:
    path = tmp_path / "runner.zip"
    path.write_bytes(archive())
    done = subprocess.run(  # -S: no site-packages
        [sys.executable, "-S", "-m", "edgekd_hardware.board_state"],
        env={"PYTHONPATH": str(path), "PATH": "/usr/bin:/bin"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_it_is_small_and_the_same_every_time() -> None:
    content = archive()
    assert content == archive() and len(content) < 200_000
    names = zipfile.ZipFile(io.BytesIO(content)).namelist()
    assert "edgekd/bench/worker.py" in names and "edgekd/bench/runner.py" not in names
    assert not [name for name in names if name.startswith(("edgekd/model", "edgekd_cli"))]
    assert all(name.endswith(".py") for name in names)


def test_it_follows_what_the_worker_imports() -> None:
    found = sources()
    assert set(ENTRIES) <= set(found)
    assert {"edgekd.runtime.openvino", "edgekd.errors", "edgekd.bench.machine"} <= set(found)
    assert "edgekd.pipeline" not in found  # edgekd/__init__.py names it, for the host
