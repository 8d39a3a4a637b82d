"""Whole measurements in real processes; no assertion depends on how fast anything is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgekd.bench import LatencyReport, Protocol, Variant, measure, runner
from edgekd.errors import MeasurementError

Make = Callable[..., Path]
SHORT = Protocol(processes=2, rounds=20, warmup_ms=1)


class Recorder:
    """A Progress that keeps what it is told."""

    def __init__(self) -> None:
        self.total = 0
        self.steps: list[int] = []

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[Callable[[int], None]]:
        self.total = total
        yield self.steps.append

    def note(self, message: str) -> None:
        raise AssertionError(message)


def test_measures_models_against_a_baseline(
    make_model: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('shadowed by the current folder')")
    monkeypatch.chdir(tmp_path)
    progress = Recorder()
    models = {"fp32": make_model("a"), "int8": Path(make_model("b", depth=2).name)}
    report = measure(models, baseline="fp32", protocol=SHORT, progress=progress)
    assert (progress.total, progress.steps) == (2, [1, 1])
    assert report.runtime.startswith("onnxruntime ")
    assert report.models["fp32"].ratio is None
    fast = report.models["int8"]
    assert [len(row) for row in fast.samples_ms] == [20, 20]
    assert fast.p90_ms is not None
    assert 0 < fast.median_ms <= fast.p90_ms
    assert fast.ratio_low <= fast.ratio <= fast.ratio_high  # type: ignore[operator]
    assert LatencyReport.from_dict(report.to_dict(samples=True)) == report


def test_a_workers_refusal_arrives_as_one_line(make_model: Make, tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"not ONNX")
    with pytest.raises(MeasurementError, match=r"^model 'b' cannot be loaded") as caught:
        measure({"a": make_model(), "b": tmp_path / "bad.onnx"}, baseline="a", protocol=SHORT)
    assert "\n" not in str(caught.value)


def test_refuses_before_starting_anything(make_model: Make, tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="baseline 'z' is not among a"):
        measure({"a": make_model()}, baseline="z")
    with pytest.raises(MeasurementError, match=r"no model file .*none\.onnx"):
        measure({"a": tmp_path / "none.onnx"}, baseline="a")


def test_refuses_openvino_where_it_is_missing(
    make_model: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "is_installed", lambda: False)
    models = {"a": Variant(make_model(), "openvino", "f32")}
    with pytest.raises(MeasurementError, match=r"not installed: pip install .edgekd\[openvino\]"):
        measure(models, baseline="a")


def test_a_process_that_takes_too_long(make_model: Make) -> None:
    with pytest.raises(MeasurementError, match=r"more than 0\.05 s"):
        measure({"a": make_model()}, baseline="a", protocol=SHORT, timeout_s=0.05)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "ended by SIGKILL"),
        ("raise RuntimeError('first line')", "^RuntimeError: first line$"),
        ("import sys; sys.exit(7)", "exit code 7"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_explains_how_a_process_ended(code: str, message: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    with pytest.raises(MeasurementError, match=message):
        raise MeasurementError(runner.explain(done.returncode, done.stderr))


def test_needs_neither_torch_nor_onnx() -> None:
    heavy = ("torch", "onnx", "pydantic", "typer")
    code = (
        "import sys, edgekd.bench, edgekd.bench.worker;"
        f"print([m for m in {heavy!r} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=runner.worker_environment(),
        check=True,
    )
    assert done.stdout.strip() == "[]"
