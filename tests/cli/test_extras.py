"""A light install says which command needs more, and how to get it."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    "args", [["compress", "m.pt"], ["compress", "m.pt", "--dry-run"], ["demo", "d"]]
)
def test_missing_torch_names_the_install_line(run_cli, without_torch, args) -> None:
    done = run_cli(*args, PYTHONPATH=without_torch)
    assert done.returncode == 2
    assert done.stderr.startswith("error: needs torch, onnx")
    assert 'pip install "edgekd[compress]"' in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("args", [["targets"], ["doctor"], ["compress", "--help"]])
def test_light_commands_work_without_torch(run_cli, without_torch, args) -> None:
    done = run_cli(*args, PYTHONPATH=without_torch)
    assert done.returncode == 0, done.stderr


def test_light_commands_import_without_torch(run_python, without_torch) -> None:
    code = "import edgekd.runtime, edgekd.bench, edgekd.evaluate, edgekd.device, edgekd.recipe"
    done = run_python("-c", code, PYTHONPATH=without_torch)
    assert done.returncode == 0, done.stderr


def test_doctor_tells_what_is_missing(run_cli, without_torch) -> None:
    done = run_cli("doctor", PYTHONPATH=without_torch)
    assert 'pip install "edgekd[compress]"' in done.stdout
