"""What a run says at its end: missed limits and broken rules of the target."""

from pathlib import Path
from typing import Any

import pytest
from networks import quantized
from onnx import helper
from tensorrt_graphs import exported, good_block, spoiled, uint8

from edgekd.bench import machine
from edgekd.cascade import Built
from edgekd.device import load_profile
from edgekd.export.onnx import export_onnx
from edgekd.export.parity import Parity
from edgekd.metrics import Budget, Quality
from edgekd.steps import Step
from edgekd.summary import (
    broken_in_segments,
    broken_rules,
    failed_checks,
    pruning_notes,
    quantization_notes,
    sparsity_notes,
    target_notes,
    version_notes,
)

PASSED = Parity(10, 1.0, 0.0, 0.0)
NO_BUDGET = Budget()


def step(model: bytes, name: str = "quantize", drop: float = 0.0, flips: float = 0.0) -> Step:
    module: Any = None
    quality = Quality("top1", 0.9, 10, negative_flips=flips).to_dict()
    record = {"name": name, "metric": "top1", "drop_points": drop, "quality": quality}
    return Step(module, model, Path(), (), None, record)


def test_each_missed_limit_is_one_line() -> None:
    budget = Budget(max_drop=1.0, max_nfr=2.0)
    steps = [step(b"", "original"), step(b"", "prune", 0.4), step(b"", "quantize", 1.5, 0.03)]
    broken = Parity(1000, 0.9, 0.0, 0.5)
    drop, flips, proof = failed_checks(budget, steps, broken, None)
    assert "fell by 1.50 points" in drop and "prune lost 0.40, quantize lost 1.10" in drop
    assert "3.00 % of the samples were right in the original" in flips
    assert "does not follow the torch model" in proof
    within = Budget(max_drop=1.5, max_nfr=3.0)
    assert failed_checks(within, steps, PASSED, None) == []


def pruned(low: float, high: float, **facts: Any) -> Step:
    latency = {"ratio": (low + high) / 2, "ratio_low": low, "ratio_high": high}
    found = step(b"", "prune")
    told = {"source": "measured", "wanted_gain": 2.0, "steps": [{"attempts": [{"predicted": 2.1}]}]}
    found.record["details"] = {"prune": {**told, **facts}}
    found.record["latency"] = {"models": {"original": {}, "prune": latency}}
    return found


def test_a_missed_speed_is_a_failed_check() -> None:
    last = step(b"")
    (line,) = failed_checks(NO_BUDGET, [step(b""), pruned(1.7, 1.9), last], PASSED, None)
    assert line == "prune: 1.80x as fast measured (1.70 to 1.90), asked for 2.00x"
    for found in (pruned(1.8, 2.0), pruned(2.1, 2.3), pruned(1, 1.1, source="predicted")):
        assert failed_checks(NO_BUDGET, [step(b""), found, last], PASSED, None) == []
    counted = pruned(1.0, 1.1, source="counted")
    assert failed_checks(NO_BUDGET, [step(b""), counted], PASSED, None) == []
    counted.record["latency"] = None
    assert failed_checks(NO_BUDGET, [step(b""), counted], PASSED, None) == []


def test_a_predicted_speed_is_called_so() -> None:
    (note,) = pruning_notes([step(b""), pruned(1, 1, source="predicted"), step(b"")])
    assert note.startswith("the prune stage's 2.10x is predicted") and "not measured" in note
    assert pruning_notes([step(b""), pruned(1, 1)]) == []


def test_a_broken_rule_is_a_failed_check_with_its_first_node() -> None:
    last = step(spoiled(uint8))
    broken = broken_rules(load_profile("jetson"), last)
    assert broken is not None and [violation.node for violation in broken] == ["q_x", "dq_x"]
    (line,) = failed_checks(NO_BUDGET, [last], PASSED, broken)
    assert line.startswith("TensorRT's rule 'int8' is broken at q_x: quantizes to uint8: use int8")
    assert line.endswith("(and 1 more)")


def test_a_graph_that_keeps_the_rules_passes() -> None:
    last = step(good_block().SerializeToString())
    assert broken_rules(load_profile("jetson"), last) == ()
    assert failed_checks(NO_BUDGET, [last], PASSED, ()) == []


def test_segments_are_held_to_the_rules_too() -> None:
    good, bad = good_block().SerializeToString(), spoiled(uint8)
    exits = Built({"segment_0.onnx": good, "segment_1.onnx": bad}, None, {})
    found = broken_in_segments(load_profile("jetson"), exits)
    assert [violation.node for violation in found] == [
        "segment_1.onnx: q_x",
        "segment_1.onnx: dq_x",
    ]
    (line,) = failed_checks(NO_BUDGET, [step(good)], PASSED, found)
    assert "is broken at segment_1.onnx: q_x: quantizes to uint8" in line
    assert broken_in_segments(load_profile("jetson"), None) == ()
    assert broken_in_segments(load_profile("cpu"), exits) == ()


def test_other_runtimes_have_no_rules() -> None:
    last = step(spoiled(uint8))
    assert broken_rules(load_profile("cpu"), last) is None
    assert failed_checks(NO_BUDGET, [last], PASSED, None) == []


def test_what_the_oldest_tensorrt_lacks_becomes_a_note() -> None:
    last = step(exported("transformer"))
    (note,) = version_notes(load_profile("jetson"), last)
    assert "LayerNormalization" in note and "8.5" in note
    assert version_notes(load_profile("cpu"), last) == []
    assert version_notes(load_profile("jetson"), step(exported("mlp"))) == []
    assert version_notes(load_profile("jetson-jetpack7"), last) == []


def test_a_layer_norm_in_parts_is_noted_for_float16() -> None:
    found = quantized("transformer", "tensorrt")
    example = tuple(x[:2] for x in found.inputs)
    model = export_onnx(found.converted, example, found.spec, opset=17, layer_norm="decomposed")
    (note,) = version_notes(load_profile("jetson"), step(model))
    assert "without --fp16" in note and "layer_norm: operator" in note


def test_where_the_engine_is_built_is_noted() -> None:
    (note,) = target_notes(load_profile("jetson"))
    assert "edgekd build, or sh build.sh in the bundle's folder" in note
    assert "latency was not measured" in note


def test_the_oldest_board_gets_its_own_notes() -> None:
    nano = load_profile("jetson-nano")
    graph = helper.make_graph([helper.make_node("Mod", ["a", "b"], ["c"])], "graph", [], [])
    last = step(helper.make_model(graph).SerializeToString())
    (note,) = version_notes(nano, last)
    assert note == "the model has Mod, which TensorRT 8.2 (JetPack 4.6) does not know"
    assert version_notes(load_profile("jetson"), last) == []


def test_why_nothing_was_measured_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cpu_flags", lambda: frozenset(("avx2", "avx512_vnni")))
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    (measured,) = target_notes(load_profile("cpu-avx2"))
    assert measured.startswith("latency was not measured for x86-64 computer without VNNI")
    assert "this processor has avx512_vnni" in measured
    measured, accuracy = target_notes(load_profile("intel-npu"))
    assert "models for it run with openvino" in measured and "a batch of 1" in accuracy
    (measured,) = target_notes(load_profile("raspberry-pi-5"))
    assert "this is a x86_64 machine, not aarch64" in measured
    assert target_notes(load_profile("cpu-vnni")) == target_notes(load_profile("cpu")) == []


def test_zeros_are_built_for_and_explained() -> None:
    made, left_out = step(b""), step(b"")
    made.record["details"] = {"sparsity": {"gain": "little", "faster": True, "layers": [{}]}}
    left_out.record["details"] = {"sparsity": {"gain": "nothing", "skipped": True}}
    assert sparsity_notes([step(b""), made]) == ["the sparsify stage ran: little"]
    assert sparsity_notes([left_out]) == ["the sparsify stage was left out: nothing"]


def test_what_stayed_in_float32_and_what_is_dead_is_noted() -> None:
    last = step(b"")
    last.record["details"] = {
        "kept_float32": {"up": "its constant 1e+06 is larger than FP16's 65504"},
        "zero_ranges": [f"relu_{i}" for i in range(7)],
    }
    kept, dead = quantization_notes(last)
    assert kept == "up stays in FP32: its constant 1e+06 is larger than FP16's 65504"
    assert dead.startswith("the range of relu_0, relu_1, relu_2, relu_3, relu_4 and 2 more is zero")
