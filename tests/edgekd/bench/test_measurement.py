"""Reports keep what they were told and refuse unfair comparisons."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from edgekd.bench.machine import fingerprint
from edgekd.bench.measurement import LatencyReport, ensure_comparable, summarise
from edgekd.bench.protocol import VERSION, Protocol
from edgekd.errors import MeasurementError

SAMPLES = {"fp32": [[2.0, 4.0, 2.0], [2.0, 2.0, 2.0]], "int8": [[1.0, 1.0, 1.0], [0.5, 0.5, 0.5]]}


@pytest.fixture
def report() -> LatencyReport:
    protocol = Protocol(processes=2, rounds=3)
    models = summarise(SAMPLES, "fp32")
    return LatencyReport(protocol, fingerprint(), "onnxruntime 1.0 CPU", "fp32", models)


def test_ratios_refer_to_the_baseline(report: LatencyReport) -> None:
    base, fast = report.models["fp32"], report.models["int8"]
    assert (base.median_ms, base.ratio, base.ratio_low, base.ratio_high) == (2.0, None, None, None)
    assert fast.ratio == pytest.approx(8**0.5)
    assert (fast.ratio_low, fast.ratio_high) == (pytest.approx(2), pytest.approx(4))
    assert fast.p90_ms is None  # six samples do not carry it
    assert report.interval == "range of 2 process medians (holds the true median in 50%)"


@pytest.mark.parametrize("samples", [True, False])
def test_survives_json(report: LatencyReport, samples: bool) -> None:
    data = json.loads(json.dumps(report.to_dict(samples), allow_nan=False))
    again = LatencyReport.from_dict(data)
    assert again.to_dict(samples) == data
    assert (again == report) is samples
    assert ("samples_ms" in data["models"]["int8"]) is samples


@pytest.mark.parametrize("field", ["protocol", "machine", "runtime", "baseline", "models"])
def test_refuses_data_that_is_no_report(report: LatencyReport, field: str) -> None:
    data = report.to_dict(samples=True)
    for broken in ({k: v for k, v in data.items() if k != field}, {**data, "models": [1]}):
        with pytest.raises(MeasurementError):
            LatencyReport.from_dict(broken)


def test_compares_like_with_like_only(report: LatencyReport) -> None:
    ensure_comparable(report, report)
    other = replace(report, protocol=replace(report.protocol, threads=2))
    with pytest.raises(MeasurementError, match=r"protocol differs.*threads: 1 and 2"):
        ensure_comparable(report, other)
    other = replace(report, machine={**report.machine, "cores": 128})
    with pytest.raises(MeasurementError, match=r"machine differs.*cores: .* and 128"):
        ensure_comparable(report, other)


@pytest.mark.parametrize(
    "change",
    [
        {"threads": 0},
        {"batch": 1.5},
        {"processes": True},
        {"rounds": "200"},
        {"warmup_ms": -1},
        {"warmup_ms": float("nan")},
        {"warmup_ms": None},
        {"seed": -1},
        {"version": "duet-0"},
    ],
)
def test_refuses_a_protocol_that_makes_no_sense(change: dict[str, Any]) -> None:
    with pytest.raises(MeasurementError, match=f"latency protocol: {next(iter(change))}"):
        Protocol(**change)
    with pytest.raises(MeasurementError):
        Protocol.from_dict({**Protocol().to_dict(), **change})


def test_a_protocol_survives_json_with_its_version() -> None:
    protocol = Protocol(threads=2, warmup_ms=0)
    data = json.loads(json.dumps(protocol.to_dict()))
    assert data["version"] == VERSION
    assert Protocol.from_dict(data) == protocol
    with pytest.raises(MeasurementError, match="needs exactly"):
        Protocol.from_dict({"threads": 1})


def test_the_fingerprint_is_plain_data_and_steady() -> None:
    assert json.loads(json.dumps(fingerprint())) == fingerprint()
    assert 1 <= fingerprint()["usable_cores"] <= fingerprint()["cores"]  # type: ignore[operator]
