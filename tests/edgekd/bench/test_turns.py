"""Two processes that take turns, each with an interpreter of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edgekd.bench.pairs import centre
from edgekd.bench.protocol import Protocol
from edgekd.bench.runner import Variant
from edgekd.bench.turns import take_turns
from edgekd.errors import MeasurementError, NoVerdictError

PROTOCOL = Protocol(rounds=20, warmup_ms=1.0, clock="running")
HERE = {"a": sys.executable, "b": sys.executable}


def test_the_answer_is_that_of_a_duet(make_model) -> None:
    pair = {
        "a": Variant(make_model("short")),
        "b": Variant(make_model("long", depth=300, op="Exp")),
    }
    answer = take_turns(pair, HERE, PROTOCOL, 0, None)
    for field in ("samples_ns", "cpu_ns", "waits"):
        assert {name: len(rows) for name, rows in answer[field].items()} == {"a": 20, "b": 20}
    assert centre(answer, "a", "b", "running").log_ratio > 1
    assert "onnxruntime" in answer["runtime"]


def test_another_interpreter(make_model, tmp_path: Path) -> None:
    other = tmp_path / "python"  # another path: it is started as an older one would be
    other.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    other.chmod(0o755)
    pair = {"a": Variant(make_model("one")), "b": Variant(make_model("two"))}
    answer = take_turns(pair, {"a": sys.executable, "b": str(other)}, PROTOCOL, 0, None)
    assert len(answer["samples_ns"]["b"]) == 20


def test_what_goes_wrong_names_the_interpreter(make_model, tmp_path: Path) -> None:
    model = make_model("one")
    pair = {"a": Variant(model), "b": Variant(model)}
    missing = {"a": sys.executable, "b": str(tmp_path / "python")}
    with pytest.raises(MeasurementError, match=r"python cannot be run"):
        take_turns(pair, missing, PROTOCOL, 0, None)
    broken = tmp_path / "text.onnx"
    broken.write_text("no model")
    pair["b"] = Variant(broken)
    with pytest.raises(MeasurementError, match=r"python.*: model 'model' cannot be loaded"):
        take_turns(pair, HERE, PROTOCOL, 0, None)


def test_models_of_other_inputs(make_model) -> None:
    pair = {"a": Variant(make_model("one")), "b": Variant(make_model("two", ("N", 9)))}
    with pytest.raises(NoVerdictError, match="different inputs"):
        take_turns(pair, HERE, PROTOCOL, 0, None)
