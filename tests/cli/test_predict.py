"""``edgekd targets calibrate`` and ``edgekd predict``, end to end."""

from __future__ import annotations

import json

import pytest

from edgekd.predict.builder import Builder
from edgekd.predict.layers import conv


@pytest.mark.slow
def test_calibrate_and_predict(run_cli, tmp_path) -> None:
    b = Builder(0)
    (tmp_path / "m.onnx").write_bytes(b.finish(conv(b, b.input(1, 3, 8, 8), 16, 3)))
    model, table = str(tmp_path / "m.onnx"), str(tmp_path / "c.json")
    refused = run_cli("predict", model, "--calibration", table)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "No such file" in refused.stderr
    done = run_cli("targets", "calibrate", "--budget-s", "1", "--out", table, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["networks"] > 0
    done = run_cli("predict", model, "--calibration", table)
    assert done.returncode == 0, done.stderr
    assert "predicted, not measured" in done.stdout
    done = run_cli("predict", model, "--calibration", table, "--json")
    data = json.loads(done.stdout)
    assert data["kind"] == "prediction"
    parts = sum(kernel["microseconds"] for kernel in data["kernels"])
    assert abs(parts + data["call_us"] - data["predicted_us"]) < 1e-6 * parts
