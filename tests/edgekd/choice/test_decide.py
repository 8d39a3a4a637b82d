"""Which candidate is taken, from made-up times: the rules, not this machine's speed."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from edgekd.bench.measurement import LatencyReport, summarise
from edgekd.bench.protocol import Protocol
from edgekd.choice import Candidate, Choice, Measured, decide
from edgekd.metrics import Budget, Quality

ORIGINAL = Candidate("baseline", "onnxruntime", "f32", 0, 20)
INT8 = Candidate("compressed", "onnxruntime", "f32", 22, 22)
OV_F32 = Candidate("baseline", "openvino", "f32", 0, 20)
OV_BF16 = Candidate("baseline", "openvino", "bf16", 0, 20)
OV_INT8 = Candidate("compressed", "openvino", "f32", 22, 22)

N_PROCESSES, ROUNDS = 5, 10


def measured(
    times: dict[Candidate, float],
    *,
    accuracy: dict[Candidate, float] | None = None,
    flips: dict[Candidate, float] | None = None,
    spread: dict[Candidate, float] | None = None,
) -> Measured:
    """Times in ms; ``spread`` makes a candidate's processes differ by that factor, up and down."""
    samples = {}
    for candidate, time in times.items():
        factor = (spread or {}).get(candidate, 1.0)
        rows = time * np.geomspace(1 / factor, factor, N_PROCESSES)
        samples[candidate.name] = np.repeat(rows[:, None], ROUNDS, axis=1).tolist()
    first = next(iter(times))
    quality = {
        c.name: Quality(
            "top1",
            (accuracy or {}).get(c, 0.9),
            500,
            agreement=1.0,
            negative_flips=(flips or {}).get(c, 0.0),
        )
        for c in times
    }
    latency = LatencyReport(
        Protocol(processes=N_PROCESSES, rounds=ROUNDS, primers=1),
        {},
        "onnxruntime 1, openvino 2",
        first.name,
        summarise(samples, first.name),
    )
    return Measured(tuple(times), quality, latency, ())


def pick(times: dict[Candidate, float], limits: Budget | None = None, **more: Any) -> Choice:
    return decide(measured(times, **more), limits or Budget(), verb="Quantizing")


def test_the_fastest_of_all_is_taken() -> None:
    choice = pick({ORIGINAL: 4.0, INT8: 2.0, OV_F32: 4.4, OV_BF16: 1.6, OV_INT8: 1.0})
    assert choice.chosen == OV_INT8
    assert "2.00x (2.00 to 2.00) as fast as the compressed model on ONNX Runtime" in choice.reason
    assert choice.worth_it
    assert "worth it: the compressed model on OpenVINO (INT8) is 1.60x" in choice.verdict


def test_an_original_that_is_faster_says_that_quantizing_was_not_worth_it() -> None:
    choice = pick({ORIGINAL: 4.0, INT8: 2.0, OV_BF16: 1.0, OV_INT8: 1.25})
    assert choice.chosen == OV_BF16
    assert not choice.worth_it
    assert choice.verdict.startswith("Quantizing was not worth it for speed: the compressed model")
    assert "0.80x (0.80 to 0.80) as fast as the original on OpenVINO (bf16)" in choice.verdict


def test_on_one_runtime_a_slower_int8_is_not_deployed() -> None:
    choice = pick({ORIGINAL: 1.0, INT8: 1.5})
    assert choice.chosen == ORIGINAL
    assert not choice.worth_it


@pytest.mark.parametrize("factor", [1.3, 2.0])
def test_one_doubtful_process_keeps_the_default(factor: float) -> None:
    """20 % faster by the median, but in some processes slower."""
    choice = pick({ORIGINAL: 4.0, INT8: 1.2, OV_BF16: 1.0}, spread={OV_BF16: factor})
    assert choice.chosen == INT8
    assert "nothing else within the limits was faster in all 5 processes" in choice.reason
    assert not choice.worth_it and "no speed that this duet can show" in choice.verdict
    assert pick({ORIGINAL: 4.0, INT8: 1.2, OV_BF16: 1.0}).chosen == OV_BF16


def test_a_candidate_beyond_the_limits_is_not_taken() -> None:
    times = {ORIGINAL: 4.0, INT8: 2.0, OV_BF16: 1.6, OV_INT8: 1.0}
    lossy = {INT8: 0.9, OV_BF16: 0.9, OV_INT8: 0.895}
    assert pick(times, accuracy=lossy).chosen == OV_INT8
    choice = pick(times, Budget(max_drop=0.2), accuracy=lossy)
    assert choice.chosen == OV_BF16 and OV_INT8 not in choice.held
    turned = {OV_BF16: 0.02, OV_INT8: 0.004}
    assert pick(times, Budget(max_nfr=0.5), flips=turned).chosen == OV_INT8
    assert pick(times, Budget(max_nfr=0.1), flips=turned).chosen == INT8


def test_a_runtime_that_computes_wrongly_is_not_taken_even_without_limits() -> None:
    times = {ORIGINAL: 4.0, INT8: 2.0, OV_INT8: 1.0}
    assert pick(times, accuracy={INT8: 0.87, OV_INT8: 0.85}).chosen == INT8
    assert pick(times, accuracy={INT8: 0.87, OV_INT8: 0.865}).chosen == OV_INT8


def test_a_compressed_model_that_misses_the_limits_is_not_deployed() -> None:
    times = {ORIGINAL: 4.0, INT8: 2.0, OV_F32: 4.4, OV_INT8: 1.0}
    bad = {INT8: 0.8, OV_INT8: 0.8}
    choice = pick(times, Budget(max_drop=1.0), accuracy=bad)
    assert choice.chosen == ORIGINAL
    assert "misses the limits" in choice.reason
    assert "misses the limits everywhere" in choice.verdict
    faster = {**times, OV_F32: 3.0}
    assert pick(faster, Budget(max_drop=1.0), accuracy=bad).chosen == OV_F32


def test_openvino_alone_compares_within_itself() -> None:
    choice = pick({OV_F32: 4.0, OV_BF16: 2.0, OV_INT8: 1.0})
    assert choice.chosen == OV_INT8
    assert choice.worth_it


def test_says_what_layers_are_computed_in() -> None:
    mixed = Candidate("compressed", "openvino", "bf16", 12, 20)
    found = [c.arithmetic for c in (ORIGINAL, OV_BF16, INT8, mixed)]
    assert found == ["FP32", "bf16", "INT8", "INT8 + bf16"]


def test_what_is_stored_is_plain_and_whole() -> None:
    found = measured({ORIGINAL: 4.0, INT8: 2.0, OV_BF16: 1.0})
    assert Measured.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    choice = decide(found, Budget())
    table = json.loads(json.dumps(choice.candidates()))
    assert [row["chosen"] for row in table["rows"]] == [False, False, True]
    assert table["rows"][2]["ratio"] == pytest.approx(4.0)
    deployment = choice.deployment()
    assert (deployment["model"], deployment["runtime"]) == ("baseline", "openvino")
    assert deployment["precision"] == "bf16"
