"""``edgekd gate`` on a board, and on a machine that throttles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from marks import with_slow
from onnx import TensorProto, helper

LAX = ("--max-regression", "100000%", "--max-memory-growth", "100000%")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 4]) for n in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", [x], [y])
    opsets = [helper.make_opsetid("", 17)]
    path = tmp_path / "model.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    )
    return path


def test_the_board_measures_latency_and_memory(
    run_cli: Any, sshd: Any, interpreter: Any, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "gate.json"
    place = ("--device", "ssh://board", "--ssh-config", str(sshd.config("gate")))
    done = run_cli(
        *("gate", "--baseline", str(model), "--candidate", str(model), *LAX, *place),
        *("--device-python", str(interpreter.path), "--out", str(out)),
    )
    assert done.returncode == 0, done.stderr
    assert "ssh://board: " in done.stdout
    result = json.loads(out.read_text())
    assert [check["name"] for check in result["checks"]] == ["latency", "peak memory"]
    assert result["conditions"]["device"] == "ssh://board"
    assert not list(interpreter.temporary.iterdir())


@pytest.mark.parametrize("allowed", with_slow([False, True], [True]))
def test_a_machine_that_throttles_gives_no_verdict(
    run_cli: Any, model: Path, tmp_path: Path, allowed: bool
) -> None:
    device = tmp_path / "root" / "sys" / "class" / "thermal" / "cooling_device0"
    device.mkdir(parents=True)
    (device / "type").write_text("cpufreq-cpu0\n")
    (device / "cur_state").write_text("2\n")
    out = tmp_path / "gate.json"
    options = ("--allow-throttling",) if allowed else ()
    done = run_cli(
        *("gate", "--baseline", str(model), "--candidate", str(model), *LAX[:2], *options),
        *("--out", str(out)),
        EDGEKD_SYSTEM_ROOT=str(tmp_path / "root"),
    )
    assert done.returncode == (0 if allowed else 3), done.stderr
    assert out.exists() == allowed
    assert ("this machine was slowed down" in done.stderr) == (not allowed)
