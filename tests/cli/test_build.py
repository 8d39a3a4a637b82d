"""``edgekd build`` from outside."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from engines import write_bundle

from edgekd.runtime.cuda import why_no_gpu

NO_GPU = pytest.mark.skipif(why_no_gpu() is None, reason="this machine has a GPU")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "b")


@NO_GPU
def test_without_tensorrt_it_says_what_is_missing_and_exits_2(run_cli: Any, bundle: Path) -> None:
    before = (bundle / "manifest.json").read_bytes()
    done = run_cli("build", str(bundle), "--binding", "tensorrt")
    assert done.returncode == 2 and done.stdout == ""
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: TensorRT cannot be used here") and "build.sh" in last
    assert (bundle / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("target", ["jetson", "jetson-orin-nano", "cpu", "no-such"])
def test_the_target_has_to_be_the_bundles(run_cli: Any, bundle: Path, target: str) -> None:
    done = run_cli("build", str(bundle), "--target", target, "--compute-capability", "9.9")
    assert done.returncode == 2  # no TensorRT here, or none that knows such a GPU
    names_both = "is for jetson-orin-nano, not for cpu" in done.stderr
    assert names_both == (target == "cpu")
    assert ("unknown target" in done.stderr) == (target == "no-such")


@NO_GPU
@pytest.mark.skipif(
    find_spec("tensorrt_rtx") is None,
    reason="needs TensorRT-RTX: pip install 'edgekd[trt-check]'",
)
def test_it_builds_and_says_that_nothing_was_run(run_cli: Any, bundle: Path) -> None:
    done = run_cli("build", str(bundle), "--compute-capability", "8.6", "--max-batch", "32")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("model.engine: tensorrt_rtx")
    assert "built, not run: no GPU here" in done.stdout
    done = run_cli("build", str(bundle), "--compute-capability", "8.6", "--json")
    answer = json.loads(done.stdout)
    assert answer["passed"] and answer["notes"] == ["built, not run: no GPU here"]
    assert answer["engine"]["verification"] is None and answer["engine"]["latency"] is None
    assert (bundle / answer["engine"]["file"]).is_file()
    done = run_cli("inspect", str(bundle))
    assert "model.engine: tensorrt_rtx" in done.stdout
    assert "built, not run: no GPU here" in done.stdout


def test_unknown_choices_are_usage_errors(run_cli: Any, bundle: Path) -> None:
    for option in (["--binding", "other"], ["--hardware-compatible", "all"], ["--max-batch", "0"]):
        assert run_cli("build", str(bundle), *option).returncode == 2


def entry(**changed: Any) -> dict[str, Any]:
    """What a build on a GPU finds out, as the manifest has it."""
    times = {"runs": 300, "median_ms": 0.4, "p90_ms": 0.5, "p99_ms": None}
    verification = {
        "passed": True,
        "agreement": 0.998,
        "clear_disagreements": 0,
        "relative_error": 0.0123,
        "largest_difference": 0.5,
        "tolerance": 0.1,
        "samples": 500,
        "inputs": "validation",
    }
    return {
        "file": "model.engine",
        "onnx": "model.onnx",
        "binding": "tensorrt",
        "version": "10.3.0",
        "compute_capabilities": ["8.7"],
        "build": {"seconds": 61.0, "strongly_typed": True, "warnings": []},
        "verification": verification,
        "layers": {
            "count": 3,
            "precisions": {"int8": 2, "float16": 1},
            "fallbacks": {"head.fc": "float16"},
            "unseen": ["block.a"],
        },
        "latency": [{"shapes": {"x": [1, 3]}, "without_graph": times, "with_graph": None}],
        **changed,
    }


def test_what_a_gpu_finds_out_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    from edgekd_cli.build import _show

    from edgekd.building.engine import Building

    _show(Building(entry(), Path("b"), ("a note",)))
    shown = capsys.readouterr().out
    for text in (
        "agreement 99.80 %, relative error 0.0123 (at most 0.1)",
        "layers: 3 (2 int8, 1 float16)",
        "not on integers: head.fc runs in float16",
        "1 quantized layers, block.a",
        "0.400 ms",
        "a note",
    ):
        assert text in shown


@pytest.mark.parametrize("error", [0.4, None])
def test_an_engine_that_is_not_kept_is_told(
    capsys: pytest.CaptureFixture[str], error: float | None
) -> None:
    from edgekd_cli.build import _refusal, _show

    from edgekd.building.engine import Building

    wrong = {**entry()["verification"], "passed": False, "relative_error": error}
    built = Building(entry(file=None, verification=wrong), None)
    _show(built)
    assert "engine, not kept" in capsys.readouterr().out
    line = _refusal(Path("b"), built)
    assert "does not answer as model.onnx" in line and "b was left as it was" in line
