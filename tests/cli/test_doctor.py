"""`edgekd doctor` as users run it."""

from __future__ import annotations

import json

import pytest


def findings(done) -> dict[str, dict[str, str]]:
    return {finding["subject"]: finding for finding in json.loads(done.stdout)}


def test_a_missing_runtime_exits_1(run_cli, without) -> None:
    hidden = without("onnxruntime", "openvino", "tensorrt", "torch")
    done = run_cli("doctor", "--json", PYTHONPATH=hidden)

    assert done.returncode == 1, done.stderr
    found = findings(done)
    assert found["onnxruntime"]["state"] == "missing"
    assert found["onnxruntime"]["advice"] == "pip install edgekd"
    assert found["tensorrt"]["state"] == "note"
    assert found["openvino"]["state"] == "note"
    assert 'pip install "edgekd[openvino]"' in found["openvino"]["advice"]
    assert 'pip install "edgekd[compress]"' in found["compress extra"]["advice"]


def test_a_broken_runtime_is_found_by_trying_it(run_cli, tmp_path) -> None:
    package = tmp_path / "onnxruntime"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('libonnx.so: wrong architecture')")

    done = run_cli("doctor", PYTHONPATH=str(tmp_path))

    assert done.returncode == 1
    assert "does not work: ImportError: libonnx.so: wrong architecture" in done.stdout


def test_two_builds_of_onnxruntime_exit_1(run_cli, tmp_path) -> None:
    info = tmp_path / "onnxruntime_gpu-1.30.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.30.0\n"
    )

    done = run_cli("doctor", "--json", PYTHONPATH=str(tmp_path))

    assert done.returncode == 1
    assert "onnxruntime-gpu 1.30.0" in findings(done)["onnxruntime twice"]["value"]


@pytest.mark.slow
def test_measured(run_cli) -> None:
    done = run_cli("doctor", "--measure", "--json")

    assert done.returncode == 0, done.stderr
    finding = findings(done)["INT8 measured"]
    ratio = float(finding["value"].partition("x")[0])
    assert ratio > 0
    assert (finding["state"] == "ok") == (not finding["advice"])
