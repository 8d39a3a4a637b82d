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


def test_unknown_choices_are_usage_errors(run_cli: Any, bundle: Path) -> None:
    for option in (["--binding", "other"], ["--hardware-compatible", "all"], ["--max-batch", "0"]):
        assert run_cli("build", str(bundle), *option).returncode == 2
