"""``edgekd deploy``: what is printed, exit codes, and that a light install is enough."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


def test_triton(run_cli, bundle: Path, tmp_path: Path, without_torch: str) -> None:
    done = run_cli("deploy", "triton", str(bundle), str(tmp_path / "r"), PYTHONPATH=without_torch)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "r" / "tiny"
    assert done.stdout == f"{folder}: model.onnx on onnxruntime (cpu), batches up to 8\n"
    assert (folder / "labels.txt").read_text("utf-8") == "red\ngreen\nblue\n"

    options = ["--name", "other", "--max-batch", "4", "--preferred-batch", "2,4", "--json"]
    done = run_cli("deploy", "triton", str(bundle), str(tmp_path / "r"), *options)
    found = json.loads(done.stdout)
    assert found["folder"] == str(tmp_path / "r" / "other") and found["max_batch_size"] == 4
    text = (tmp_path / "r" / "other" / "config.pbtxt").read_text("utf-8")
    assert "preferred_batch_size: [2, 4]" in text
    assert folder.is_dir()  # the other model of the repository


def test_cpp(run_cli, bundle: Path, tmp_path: Path, without_torch: str) -> None:
    out = tmp_path / "project"
    done = run_cli("deploy", "cpp", str(bundle), str(out), PYTHONPATH=without_torch)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{out}: main.cpp and CMakeLists.txt for model.onnx\n"
    done = run_cli("deploy", "cpp", str(bundle), str(out), "--model", "baseline", "--json")
    assert json.loads(done.stdout)["file"] == "baseline.onnx"


@pytest.mark.parametrize("kind", ["triton", "cpp"])
@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"bundle": "nowhere"}, "nowhere: there is no such folder"),
        ({"options": ["--model", "small"]}, "has no model 'small'"),
        ({"out": "taken"}, "holds files that deploy did not write (mine.txt)"),
    ],
)
def test_wrong_input_is_one_line_and_exit_2(
    run_cli, bundle: Path, tmp_path: Path, kind: str, changed: dict[str, Any], words: str
) -> None:
    taken = tmp_path / "taken" / "tiny" if kind == "triton" else tmp_path / "taken"
    taken.mkdir(parents=True)
    (taken / "mine.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    out = tmp_path / changed.get("out", "out")
    options = changed.get("options", [])

    done = run_cli("deploy", kind, changed.get("bundle", str(bundle)), str(out), *options)

    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr and done.stderr.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "options",
    [
        ["--backend", "torch"],
        ["--preferred-batch", "0,4"],
        ["--max-batch", "-1"],
        ["--instances", "0"],
        ["--warmup", "often"],
    ],
)
def test_wrong_usage(run_cli, options: list[str]) -> None:
    done = run_cli("deploy", "triton", "bundle", "repository", *options)
    assert done.returncode == 2
    assert "Usage:" in done.stderr
