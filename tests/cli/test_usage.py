"""Exit codes, one line for an error, and help of every command."""

from __future__ import annotations

import json
import re

import pytest
from edgekd_cli.app import app

COMMANDS = (
    "compress",
    "eval",
    "bench",
    "gate",
    "predict",
    "distill-advice",
    "inspect",
    "build",
    "keygen",
    "sign",
    "verify",
    "deploy",
    "targets",
    "doctor",
    "demo",
)


def test_every_command_is_listed_here() -> None:
    commands = {command.name for command in app.registered_commands}
    assert commands | {group.name for group in app.registered_groups} == set(COMMANDS)


@pytest.mark.parametrize("command", [*COMMANDS, "deploy triton", "deploy cpp"])
def test_help_of_every_command(run_cli, command: str) -> None:
    done = run_cli(*command.split(), "--help", NO_COLOR="1")
    assert done.returncode == 0, done.stderr
    assert "--json" in done.stdout or command == "deploy"  # its commands have it
    assert "\x1b" not in done.stdout


def test_version(run_cli) -> None:
    assert run_cli("--version").stdout == "edgekd 0.1.0\n"


@pytest.mark.parametrize(
    "args",
    [
        ["nonsense"],
        ["compress"],
        ["compress", "m.pt", "--mean", "0.5,x"],
        ["compress", "m.pt", "--std", "nan"],
        ["compress", "m.pt", "--input-shape", "3,32.5"],
        ["compress", "m.pt", "--input-shape", "3,0,8"],
        ["compress", "m.pt", "--mean", "0.5"],
        ["compress", "m.pt", "--max-drop", "-1"],
        ["compress", "m.pt", "--max-drop", "nan"],
        ["compress", "m.pt", "--max-drop", "inf"],
        ["compress", "m.pt", "--seed", "-1"],
        ["compress", "m.pt", "--speedup", "nan"],
        ["compress", "m.pt", "--speedup", "fast"],
        ["compress", "m.pt", "--latency-ms", "inf"],
        ["eval", "bundle"],
        ["eval", "bundle", "--data", "x.npz", "--model", "other"],
        ["bench", "m.onnx", "--rounds", "0"],
        ["bench"],
        ["doctor", "--nonsense"],
        ["predict", "m.onnx", "--input-shape", "1,2"],
        ["targets", "calibrate", "--budget-s", "0"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_2(run_cli, args: list[str]) -> None:
    done = run_cli(*args)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "Usage:" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["targets", "show", "jetsn"], "did you mean jetson?"),
        (["targets", "show", "rpi"], "which one: raspberry-pi-4, raspberry-pi-5?"),
        (
            ["compress", "m.pt", "--data", "d.npz", "--target", "agx"],
            "which one: jetson-agx-orin-32gb",
        ),
        (
            [
                "compress",
                "m.pt",
                "--data",
                "d.npz",
                "--target",
                "jetson-nano",
                "--recipe",
                "w4a8-distilled",
            ],
            "jetson-nano: stages[0]: quantize gains nothing on NVIDIA Jetson Nano",
        ),
        (
            ["compress", "m.pt", "--target", "jetson-nano"],
            "recipe int8-data-free for jetson-nano: stages[0]: quantize gains nothing",
        ),
        (["targets", "show", "./no\nwhere.yaml"], "No such file"),
        (["compress", "m.pt", "--speedup", "0.5"], "--speedup: should be greater than 1, not 0.5"),
        (
            ["compress", "m.pt", "--latency-ms", "0"],
            "--latency-ms: should be greater than 0",
        ),
        (
            ["compress", "m.pt", "--speedup", "2", "--latency-ms", "3"],
            "--speedup and --latency-ms are two budgets for pruning: give one",
        ),
        (
            ["compress", "m.pt", "--speedup", "2", "--recipe", "int8-distilled"],
            "--speedup needs a recipe with a prune stage, which int8-distilled does not have",
        ),
        (["inspect", "nowhere"], "there is no such folder"),
        (["bench", "nowhere.onnx"], "there is no model file"),
        (["eval", "nowhere", "--data", "x.npz"], "there is no such folder"),
    ],
)
def test_wrong_input_is_one_line_and_exit_2(run_cli, args: list[str], words: str) -> None:
    done = run_cli(*args)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr


def test_debug_shows_the_traceback(run_cli) -> None:
    done = run_cli("inspect", "nowhere", "--debug")
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")


RAISE = """
import sys
from edgekd_cli import app
def fail() -> None:
    raise {error}
app.app.command("fail")(fail)
sys.argv = ["edgekd", "fail"]
app.main()
"""


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        ("ZeroDivisionError('one\\ntwo')", 70, "internal error: ZeroDivisionError: one two; "),
        ("KeyboardInterrupt", 130, ""),
    ],
)
def test_other_exceptions(run_python, error: str, code: int, words: str) -> None:
    done = run_python("-c", RAISE.format(error=error))
    assert done.returncode == code
    assert done.stderr.startswith(words)
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 1


def test_targets(run_cli) -> None:
    table = run_cli("targets").stdout
    names = [profile["name"] for profile in json.loads(run_cli("targets", "--json").stdout)]
    assert len(names) >= 27 and names == sorted(names)
    rows = [line.split()[0] for line in table.splitlines()[3:] if line.strip()]
    assert rows == names  # one line each, where a pipe is 120 columns wide


def test_targets_show(run_cli) -> None:
    profile = json.loads(run_cli("targets", "show", "jetson", "--json").stdout)
    assert (profile["name"], profile["opset"]) == ("jetson-orin-nano", 17)
    text = run_cli("targets", "show", "jetson").stdout
    assert text.startswith("target jetson: jetson-orin-nano, NVIDIA Jetson Orin Nano 8GB")
    assert "compute_capability" in text
    assert "data sheet" in text
    assert "68.0 GB/s" in text and "float16 5,000" in text
    assert re.search(r"^ +0 +15W +15 W", text, re.MULTILINE)
    assert re.search(r"^ 5\.1 +8\.5\.2 +11\.4 +3\.8", text, re.MULTILINE)
    assert re.search(r"^ 7\.2\.2 +11\.4\.1 +- +-", text, re.MULTILINE)


def test_doctor(run_cli) -> None:
    findings = json.loads(run_cli("doctor", "--json").stdout)
    found = {finding["subject"]: finding for finding in findings}
    assert found["onnxruntime"]["state"] == "ok"
    done = run_cli("doctor")
    assert done.returncode == 0
    assert all(subject in done.stdout for subject in found)
