"""The building process: real ones, with and without TensorRT, and how one that dies is told."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from engines import write_bundle

from edgekd.bench.place import Ended
from edgekd.bench.runner import Here
from edgekd.building.engine import build_engine
from edgekd.building.process import ask
from edgekd.errors import BundleError


class Instead(Here):
    """This machine, where another module runs as the worker."""

    def __init__(self, module: str) -> None:
        super().__init__()
        self._module = module

    def run(self, module: str, job: Mapping[str, Any], timeout_s: float) -> Ended:
        return super().run(self._module, job, timeout_s)


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make a module of some code, which processes find."""

    def make(code: str) -> Instead:
        (tmp_path / "code").mkdir()
        (tmp_path / "code" / "other_worker.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "code"))
        return Instead("other_worker")

    return make


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals like these")
@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGKILL"])
def test_a_crash_is_one_clear_line_and_leaves_the_bundle(
    worker: Any, tmp_path: Path, name: str
) -> None:
    bundle = write_bundle(tmp_path / "b")
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    place = worker(
        "import os, signal, sys; print('noise', file=sys.stderr); "
        f"os.kill(os.getpid(), signal.{name})"
    )
    with pytest.raises(BundleError, match=f"^TensorRT crashed: {name} ended") as caught:
        build_engine(bundle, place=place)
    assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"b", "code"}


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import sys; sys.exit('[TRT] noise\\nwhat is wrong')", "what is wrong"),
        ("import sys; sys.exit(7)", "exit code 7"),
        ("print('hello')", "without an answer"),
        ("", "without an answer"),
    ],
)
def test_other_ends_are_told_too(worker: Any, code: str, told: str) -> None:
    with pytest.raises(BundleError, match=told):
        ask(worker(code), {}, 60.0)


def test_the_answer_is_the_last_line(worker: Any) -> None:
    assert ask(worker("print('TensorRT says hello'); print('{\"a\": 1}'); print()"), {}, 60.0) == {
        "a": 1
    }


def test_a_build_that_takes_too_long_is_stopped(worker: Any) -> None:
    with pytest.raises(BundleError, match=r"more than 0\.5 s"):
        ask(worker("import time; time.sleep(60)"), {}, 0.5)
