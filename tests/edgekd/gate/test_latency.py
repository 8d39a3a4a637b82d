"""Real gates, of models so different that no noise decides."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekd.bench.runner import Variant
from edgekd.errors import MeasurementError, NoVerdictError
from edgekd.gate.decision import FEWEST
from edgekd.gate.latency import gate_latency, rounds_for
from edgekd.gate.run import PROTOCOL, write_arrays
from edgekd.gate.stored import gate_stored, measure_stored, read_stored

MakeModel = Callable[..., Path]
QUICK = replace(PROTOCOL, warmup_ms=1.0)


def test_a_far_slower_model_is_a_regression(make_chain: MakeModel, tmp_path: Path) -> None:
    short, long = Variant(make_chain("short", 4)), Variant(make_chain("long", 200))
    inputs = tmp_path / "inputs.npz"
    write_arrays(inputs, {"x": np.ones((1, 64), np.float32)})
    found = gate_latency(short, long, 0.02, protocol=QUICK, inputs=inputs)
    assert found.verdict == "regression"
    assert found.low <= found.change <= found.high
    assert math.expm1(found.low) > 1
    assert found.candidate_ms > found.baseline_ms > 0
    assert len(found.log_ratios) == len(found.answers) == found.protocol.processes
    data = found.to_dict(samples=True)
    assert len(data["answers"][0]["samples_ns"]["baseline"]) == found.protocol.rounds
    assert "answers" not in found.to_dict(samples=False)


def test_too_little_time_decides_nothing_and_says_how_much_would(make_chain: MakeModel) -> None:
    model = Variant(make_chain("short", 4))
    found = gate_latency(model, model, 0.02, protocol=QUICK, time_budget_s=1.0)
    assert found.verdict == "inconclusive"
    assert "--time-budget" in found.note
    assert found.to_dict(samples=False)["low"] is None


def test_models_of_other_inputs_cannot_be_compared(make_chain: MakeModel) -> None:
    narrow, wide = Variant(make_chain("narrow", 2, 8)), Variant(make_chain("wide", 2, 16))
    with pytest.raises(NoVerdictError, match=r"different inputs: .*\b8\b.*\b16\b"):
        gate_latency(narrow, wide, 0.02, protocol=QUICK)


def test_inputs_must_fit(make_chain: MakeModel, tmp_path: Path) -> None:
    model = Variant(make_chain("short", 2))
    write_arrays(tmp_path / "inputs.npz", {"x": np.ones((1, 3), np.float32)})
    with pytest.raises(MeasurementError, match="the inputs are"):
        gate_latency(model, model, 0.02, protocol=QUICK, inputs=tmp_path / "inputs.npz")


@pytest.mark.parametrize(
    ("pair_ms", "budget_s", "rounds"),
    [(0.6, 60, 400), (6, 60, 100), (60, 60, 15), (600, 60, 6), (600, 10, 5), (60, math.inf, 15)],
)
def test_slow_models_get_fewer_pairs(pair_ms: float, budget_s: float, rounds: int) -> None:
    half = [pair_ms / 2 * 1e6] * 3
    assert rounds_for({"samples_ns": {"a": half, "b": half}}, budget_s, 1.0) == rounds


def test_stored_numbers(make_chain: MakeModel, tmp_path: Path) -> None:
    short, long = Variant(make_chain("short", 4)), Variant(make_chain("long", 200))
    path = tmp_path / "baseline.json"
    measure_stored(short, "short", QUICK, processes=FEWEST).write(path)
    kept = read_stored(path)
    found = gate_stored(kept, long, 0.02)
    assert found.verdict == "regression"
    assert "weaker" in found.note
    other = replace(kept, machine={**kept.machine, "processor": "another"})
    with pytest.raises(NoVerdictError, match=r"their machine differs \(processor"):
        gate_stored(other, short, 0.02)
    with pytest.raises(NoVerdictError, match=r"onnxruntime 0\.1"):
        gate_stored(replace(kept, runtime="onnxruntime 0.1 CPU"), short, 0.02)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "other"}', "\x00", '{"format": 1}'])
def test_other_files_are_no_stored_baseline(text: str, tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    path.write_text(text)
    with pytest.raises(MeasurementError, match=r"not what --save-baseline writes"):
        read_stored(path)
    with pytest.raises(MeasurementError, match="cannot be read"):
        read_stored(tmp_path / "missing.json")
