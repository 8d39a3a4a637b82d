"""The comparison with ARM processors: its judgement here, and all of it under the marker arm."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from exits import inputs_of, middle_thresholds, write_cascade

SCRIPTS = Path(__file__).parent.parent.parent / "scripts"


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("arm_parity", SCRIPTS / "arm_parity.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["arm_parity"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A network with exits in float, and as the quantize stage writes it for ONNX Runtime."""
    folder, feed = tmp_path_factory.mktemp("bundles"), inputs_of("cnn", 64)
    found = []
    for kind, name in (("float", "fp32"), ("onnxruntime", "int8")):
        points = {"middle": middle_thresholds("cnn", kind, feed), "full": [None, None]}
        found.append(write_cascade(folder / name, "cnn", kind, points))
    return found


def test_names_what_a_bundle_holds(script: Any, bundles: list[Path]) -> None:
    feed = script._feed(bundles[1], None, 6)
    here = {f"1/{k}": v for k, v in script.arm_answers.answers(str(bundles[1]), feed).items()}
    assert {"1/compressed", "1/middle", "1/middle/exits", "1/full", "1/full/exits"} == set(here)
    rows = list(script._rows(bundles, "cortex-a72", here, here))
    assert [(row.model, row.kind, row.samples) for row in rows] == [
        ("compressed", "int8", 6),
        ("middle", "int8", 6),
        ("full", "int8", 6),
    ]
    assert all(row.passed and row.difference == 0 for row in rows)
    there = {**here, "1/compressed": here["1/compressed"][::-1]}
    assert not next(iter(script._rows(bundles, "cortex-a72", here, there))).passed


def test_what_counts_as_the_same(script: Any) -> None:
    row = script.Row("b", "m", "float", "cortex-a72", 9, 9, None, 1e-7)
    assert row.passed
    assert not replace(row, same_class=8).passed
    assert not replace(row, same_exit=8).passed
    assert not replace(row, difference=1e-3).passed
    assert replace(row, difference=1e-3, kind="int8").passed


@pytest.mark.arm
def test_answers_on_arm_as_here(run_python: Any, bundles: list[Path]) -> None:
    done = run_python(str(SCRIPTS / "arm_parity.py"), *map(str, bundles))
    print(done.stdout)  # noqa: T201 - the table is what `make arm-parity` is for
    assert done.returncode == 0, done.stdout + done.stderr
    for cpu in ("cortex-a72", "cortex-a76"):
        assert done.stdout.count(cpu) == 6  # two bundles: the model and two operating points
