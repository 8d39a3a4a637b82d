"""Predictions: labelled, adding up, in order; a real small calibration."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.bench import LatencyReport
from edgekd.device import DeviceProfile, load_profile
from edgekd.errors import MeasurementError, NoVerdictError, ProfileError
from edgekd.predict.builder import Builder
from edgekd.predict.calibrate import calibrate
from edgekd.predict.correct import Correction
from edgekd.predict.kernel import Kernel
from edgekd.predict.layers import conv
from edgekd.predict.predict import calibration_path, predict
from edgekd.predict.roofline import Roofline
from edgekd.predict.table import CalibrationTable

NETWORKS = 12


def board(**changes) -> DeviceProfile:
    figures = {
        "peak_gmacs": {"float32": 50.0},
        "memory_gb_per_s": 10.0,
        "layer_overhead_us": 1.0,
        **changes,
    }
    return load_profile("cpu").model_copy(update=figures)


def network(width: int = 16, batch: int = 1) -> bytes:
    b = Builder(0)
    x = b.input(batch, 3, 16, 16)
    for _ in range(3):
        x = conv(b, x, width, 3)
    return b.finish(x)


@pytest.fixture(scope="module")
def calibration(tmp_path_factory):
    """A real calibration of a few networks, and its file."""
    path = tmp_path_factory.mktemp("calibration") / "c.json"
    return calibrate(load_profile("cpu"), path, networks=NETWORKS), path


@given(st.integers(1, 10**9), st.integers(0, 10**8), st.integers(0, 10**8))
def test_the_bound_grows_with_work(macs: int, moved: int, more: int) -> None:
    roofline = Roofline({"float32": 20.0, "int8": 80.0}, 10.0, 2.0)
    kernel = Kernel("k", "Conv", "conv", "float32", macs=macs, read=moved)
    time = roofline.microseconds(kernel)
    assert time >= 2.0
    assert roofline.microseconds(replace(kernel, macs=macs + more)) >= time
    assert roofline.microseconds(replace(kernel, read=moved + more)) >= time
    assert roofline.microseconds(replace(kernel, arithmetic="int8")) <= time


def test_a_bound_is_said_to_be_one() -> None:
    found = predict(network(), board())
    assert found.basis == "roofline"
    assert "not validated on the device" in found.band.source
    assert found.total_us == pytest.approx(sum(k.microseconds for k in found.kernels))
    assert sum(k.share for k in found.kernels) == pytest.approx(1.0)
    assert predict(network(64), board()).total_us > found.total_us


def test_the_bound_of_a_batch() -> None:
    profile = board(layer_overhead_us=0.0)
    one, eight = (predict(network(batch=n), profile).total_us for n in (1, 8))
    assert 6 * one < eight <= 8 * one  # weights are read once


def test_a_missing_arithmetic_is_said() -> None:
    b = Builder(0, integer=True)
    model = b.finish(conv(b, b.input(1, 8, 8, 8), 16, 3))
    assert "no peak rate of int8: counted at that of float32" in predict(model, board()).notes


def test_a_profile_without_figures_is_refused() -> None:
    with pytest.raises(ProfileError, match="no peak_gmacs, memory_gb_per_s, layer_overhead_us"):
        predict(
            network(),
            load_profile("cpu").model_copy(
                update={"peak_gmacs": None, "memory_gb_per_s": None, "layer_overhead_us": None}
            ),
        )


def test_tensorrt_is_a_bound(calibration) -> None:
    table, _ = calibration
    profile = load_profile("jetson-orin-nano")
    assert predict(network(), profile).basis == "roofline"
    with pytest.raises(MeasurementError, match="runs TensorRT"):
        predict(network(), profile, Correction(table))


def test_a_prediction_is_no_measurement() -> None:
    data = json.loads(json.dumps(predict(network(), board()).to_dict()))
    assert data["kind"] == "prediction"
    assert not any("median" in key for key in data)
    with pytest.raises(MeasurementError, match="a prediction, not a measurement"):
        LatencyReport.from_dict(data)


def test_a_calibrated_prediction(calibration) -> None:
    table, _ = calibration
    found = predict(network(), load_profile("cpu"), Correction(table))
    assert found.basis == "calibration"
    parts = sum(kernel.microseconds for kernel in found.kernels)
    assert found.total_us == pytest.approx(parts + found.call_us)
    assert found.low_us <= found.total_us <= found.high_us
    assert all(kernel.microseconds > 0 for kernel in found.kernels)
    # A dozen networks promise little, but orders of magnitude have to be right.
    larger = predict(network(256), load_profile("cpu"), Correction(table))
    assert larger.total_us > 3 * found.total_us


def test_a_calibration_is_stored_and_continued(calibration) -> None:
    table, path = calibration
    assert len(table.networks) == NETWORKS
    assert table.held_out is not None
    assert len(table.held_out.log_ratios) > 0
    stored = CalibrationTable.read(path)
    assert [n.kernels for n in stored.networks] == [n.kernels for n in table.networks]
    assert stored.conditions == table.conditions
    assert stored.held_out == table.held_out
    again = calibrate(load_profile("cpu"), path, networks=NETWORKS)
    assert again.networks == stored.networks
    before = path.read_bytes()
    with pytest.raises(NoVerdictError, match="other conditions"):
        calibrate(load_profile("cpu"), path, networks=NETWORKS, threads=2)
    assert path.read_bytes() == before


def test_nodes_and_wholes_agree(calibration) -> None:
    table, _ = calibration
    for measured in table.networks:
        assert len(measured.node_us) == len(measured.kernels) > 0
        # The profiler adds some microseconds to every node, and a call has its own.
        assert sum(measured.node_us) > 0.5 * (measured.total_us - 30)


def test_another_device_is_not_calibrated_here(tmp_path) -> None:
    with pytest.raises(ProfileError, match="is not this machine"):
        calibrate(load_profile("jetson-orin-nano"), tmp_path / "c.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: {**d, "kind": "prediction"}, "is not a calibration"),
        (lambda d: {**d, "version": "0"}, "calibrate again"),
        (lambda d: {k: v for k, v in d.items() if k != "conditions"}, "is damaged"),
        (lambda d: {**d, "networks": [{**d["networks"][0], "total_us": -1}]}, "is no time"),
    ],
)
def test_files_that_are_no_calibration(calibration, tmp_path, change, message) -> None:
    _, path = calibration
    other = tmp_path / "c.json"
    other.write_text(json.dumps(change(json.loads(path.read_text("utf-8")))), "utf-8")
    with pytest.raises(MeasurementError, match=message):
        CalibrationTable.read(other)


def test_too_small_a_calibration(calibration) -> None:
    table, _ = calibration
    with pytest.raises(MeasurementError, match="too few to predict from"):
        Correction(replace(table, networks=table.networks[:3]))


def test_where_a_calibration_lies(tmp_path, monkeypatch) -> None:
    profile = load_profile("cpu")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert calibration_path("x86", profile).name == "cpu.calibration.json"
    assert calibration_path("./my-board.yaml", profile).as_posix() == "my-board.calibration.json"
