"""``edgekd gate`` through the real command line: verdicts, exit codes, files, and bad input."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.export.bundle import write_bundle

Run = Callable[..., "subprocess.CompletedProcess[str]"]

LAX = "100000%"  # what no noise of two tiny models reaches


def chain(path: Path, depth: int, width: int = 64) -> Path:
    names = ["x", *(f"t{i}" for i in range(depth - 1)), "y"]
    nodes = [helper.make_node("MatMul", [a, "w"], [b]) for a, b in pairwise(names)]
    shape: list[Any] = ["N", width]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.eye(width, dtype=np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


@pytest.fixture
def run_gate(run_cli: Any) -> Run:
    """Return a function that runs the command and holds it to its exit code."""

    def run(*arguments: str, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
        done: subprocess.CompletedProcess[str] = run_cli("gate", *arguments, **env)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run


@pytest.fixture
def short(tmp_path: Path) -> Path:
    return chain(tmp_path / "short.onnx", 4)


@pytest.fixture
def long(tmp_path: Path) -> Path:
    return chain(tmp_path / "long.onnx", 200)


def test_a_regression_exits_1_and_is_told_to_people_and_machines(
    run_gate: Run, short: Path, long: Path, tmp_path: Path
) -> None:
    files = {name: tmp_path / name for name in ("out.json", "junit.xml", "summary.md")}
    done = run_gate(
        *("--baseline", str(short), "--candidate", str(long)),
        *("--out", str(files["out.json"]), "--junit", str(files["junit.xml"])),
        code=1,
        GITHUB_ACTIONS="true",
        GITHUB_STEP_SUMMARY=str(files["summary.md"]),
    )
    assert "verdict: regression" in done.stdout
    assert "::error title=edgekd gate%3A latency::regression" in done.stdout
    result = json.loads(files["out.json"].read_text())
    assert (result["kind"], result["verdict"], result["exit_code"]) == ("gate", "regression", 1)
    latency = result["latency"]
    assert len(latency["answers"]) == latency["processes"] == latency["protocol"]["processes"]
    assert latency["machine"]["processor"]
    suite = ElementTree.parse(files["junit.xml"]).getroot()
    assert suite.attrib["failures"] == "1"
    assert suite.find("testcase/failure") is not None
    assert "| latency | regression |" in files["summary.md"].read_text()


def test_bundles_with_data_pass_or_fail_by_their_answers(
    run_gate: Run, bundle: Path, data: Path, tmp_path: Path
) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    good = (bundle / "baseline.onnx").read_bytes()
    manifest = {k: v for k, v in manifest.items() if k != "files"}
    prod = write_bundle(
        tmp_path / "prod", {"model.onnx": good, "baseline.onnx": good}, manifest, overwrite=False
    )
    common = ("--max-regression", LAX, "--data", str(data), "--json")
    done = run_gate("--baseline", str(prod), "--candidate", str(bundle), *common, code=1)
    result = json.loads(done.stdout)
    verdicts = {check["name"]: check["verdict"] for check in result["checks"]}
    assert verdicts["top1"] == "regression"
    assert verdicts["latency"] in ("pass", "improvement")
    assert result["checks"][1]["values"]["drop_points"] == pytest.approx(25.0)
    done = run_gate(
        *("--baseline", str(prod), "--candidate", str(bundle), *common),
        *("--max-drop", "25", "--max-nfr", "25", "--max-size-growth", "100%"),
        *("--max-memory-growth", "1000%"),
    )
    names = [check["name"] for check in json.loads(done.stdout)["checks"]]
    assert names == ["latency", "top1", "negative flips", "size", "peak memory"]


@pytest.mark.parametrize(("word", "code"), [("report", 3), ("pass", 0), ("fail", 1)])
def test_no_verdict_in_time(run_gate: Run, short: Path, word: str, code: int) -> None:
    command = ("--baseline", str(short), "--candidate", str(short), "--time-budget", "1")
    done = run_gate(*command, "--on-inconclusive", word, code=code)
    assert "verdict: inconclusive" in done.stdout
    assert "--time-budget" in done.stdout


def test_other_inputs_are_no_verdict(run_gate: Run, short: Path, tmp_path: Path) -> None:
    wide = chain(tmp_path / "wide.onnx", 4, 128)
    command = ("--baseline", str(short), "--candidate", str(wide))
    done = run_gate(*command, "--out", str(tmp_path / "out.json"), code=3)
    assert "the models take different inputs" in done.stderr
    assert not (tmp_path / "out.json").exists()


def test_a_bundle_for_another_runtime_is_no_verdict(run_gate: Run, bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["target"]["runtime"] = "tensorrt"
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    done = run_gate("--baseline", str(bundle), "--candidate", str(bundle), code=3)
    assert "its graph is for tensorrt" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--candidate", "SHORT"), "--baseline"),
        (("--baseline", "SHORT"), "--candidate"),
        (("--baseline", "missing", "--candidate", "SHORT"), "there is no bundle or ONNX file"),
        (("--baseline", "TEXT", "--candidate", "SHORT"), "cannot be loaded"),
        (("--baseline", "ENGINE", "--candidate", "SHORT"), "cannot time TensorRT engines"),
        (("--baseline", "SHORT", "--candidate", "SHORT", "--max-regression", "2"), "like 2%"),
        (("--baseline", "SHORT", "--candidate", "SHORT", "--max-regression", "-2%"), "like 2%"),
        (("--baseline", "SHORT", "--candidate", "SHORT", "--max-drop", "1"), "--data"),
        (("--baseline", "SHORT", "--candidate", "SHORT", "--data", "x.npz"), "is no bundle"),
        (("--stored", "TEXT", "--candidate", "SHORT"), "not what --save-baseline writes"),
        (("--stored", "TEXT", "--candidate", "SHORT", "--data", "x"), "latencies only"),
        (("--baseline", "SHORT", "--self-test", "--time-budget", "1"), "--time-budget"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    run_gate: Run, short: Path, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    text, engine = tmp_path / "text.onnx", tmp_path / "model.engine"
    for path in (text, engine):
        path.write_text("no model")
    places = {"SHORT": str(short), "TEXT": str(text), "ENGINE": str(engine)}
    done = run_gate(*(places.get(word, word) for word in arguments), code=2)
    assert words in " ".join(re.sub("[│╭╮╰╯─]", " ", done.stderr).split())


def test_a_result_that_cannot_be_written(run_gate: Run, short: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    command = ("--baseline", str(short), "--save-baseline", str(tmp_path / "file/x.json"))
    assert "cannot be written" in run_gate(*command, code=2).stderr
