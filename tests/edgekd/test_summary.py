"""What a run says at its end about the target's rules."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tensorrt_graphs import exported, good_block, spoiled, uint8

from edgekd.device import load_profile
from edgekd.steps import Step
from edgekd.summary import broken_rules, failed_checks, version_notes

PASSED: Any = SimpleNamespace(passed=True)
REQUEST: Any = SimpleNamespace(max_drop=None)


def step(model: bytes) -> Step:
    module: Any = None
    quality = {"metric": "top1", "value": 0.9, "samples": 10}
    record = {"name": "quantize", "drop_points": 0.0, "quality": quality}
    return Step(module, model, Path(), (), None, record)


def test_a_broken_rule_is_a_failed_check_with_its_first_node() -> None:
    last = step(spoiled(uint8))
    broken = broken_rules(load_profile("jetson"), last)
    assert broken is not None and [violation.node for violation in broken] == ["q_x", "dq_x"]
    (line,) = failed_checks(REQUEST, [last], PASSED, broken)
    assert line.startswith("TensorRT's rule 'int8' is broken at q_x: quantizes to uint8: use int8")
    assert line.endswith("(and 1 more)")


def test_a_graph_that_keeps_the_rules_passes() -> None:
    last = step(good_block().SerializeToString())
    assert broken_rules(load_profile("jetson"), last) == ()
    assert failed_checks(REQUEST, [last], PASSED, ()) == []


def test_other_runtimes_have_no_rules() -> None:
    last = step(spoiled(uint8))
    assert broken_rules(load_profile("cpu"), last) is None
    assert failed_checks(REQUEST, [last], PASSED, None) == []


def test_what_the_oldest_tensorrt_lacks_becomes_a_note() -> None:
    last = step(exported("transformer"))
    (note,) = version_notes(load_profile("jetson"), last)
    assert "LayerNormalization" in note and "8.5" in note
    assert version_notes(load_profile("cpu"), last) == []
    assert version_notes(load_profile("jetson"), step(exported("mlp"))) == []
