"""What a command loads before it does anything: `edgekd --help` has to come at once."""

from __future__ import annotations

import pytest

HEAVY = ("torch", "onnx", "onnxruntime", "pydantic", "numpy", "sklearn", "yaml", "openvino")

REPORT = """
import sys
sys.argv = ["edgekd", *{args!r}]
from edgekd_cli.app import main
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
print("LOADED", *sorted({{name.partition(".")[0] for name in sys.modules}}))
"""


def loaded(run_python, *args: str) -> set[str]:
    done = run_python("-c", REPORT.format(args=list(args)))
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1].split()
    assert last[0] == "LOADED"
    return set(last[1:])


@pytest.mark.parametrize("args", [["--help"], ["--version"]])
def test_help_loads_nothing_heavy(run_python, args: list[str]) -> None:
    assert not loaded(run_python, *args) & set(HEAVY)


def test_help_of_a_command_loads_nothing_heavy_of_ours(run_python) -> None:
    # Typer itself reads a command's options with pydantic.
    assert not loaded(run_python, "compress", "--help") & (set(HEAVY) - {"pydantic"})


@pytest.mark.parametrize("args", [["targets"], ["doctor"]])
def test_small_commands_load_no_framework(run_python, args: list[str]) -> None:
    assert not loaded(run_python, *args) & {"torch", "onnx", "onnxruntime", "sklearn", "openvino"}


def test_importing_edgekd_is_cheap(run_python) -> None:
    done = run_python("-c", "import edgekd, sys; print(*sys.modules)")
    assert not set(done.stdout.split()) & {*HEAVY, "typer", "rich"}
