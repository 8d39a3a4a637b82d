"""What one process does, run here without a process."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from edgekd.bench.protocol import Protocol
from edgekd.bench.worker import random_feed, run, time_rounds
from edgekd.errors import MeasurementError
from edgekd.runtime import openvino
from edgekd.spec import TensorSpec

SHORT = Protocol(rounds=5, warmup_ms=0)
Make = Callable[..., Path]


def timed(models: dict[str, Path], protocol: Protocol = SHORT) -> dict[str, Any]:
    return run({name: variant(path) for name, path in models.items()}, protocol, 0)


def variant(path: Path, runtime: str = "onnxruntime", precision: str | None = None) -> dict:
    return {"path": str(path), "runtime": runtime, "precision": precision}


def test_times_every_model_once_a_round(make_model: Make) -> None:
    answer = timed({"a": make_model("a"), "b": make_model("b", depth=3)})
    assert answer["runtime"].startswith("onnxruntime ")
    assert {name: len(times) for name, times in answer["samples_ns"].items()} == {"a": 5, "b": 5}
    assert min(min(times) for times in answer["samples_ns"].values()) > 0


@pytest.mark.skipif(
    not openvino.is_installed(), reason='needs OpenVINO: pip install "edgekd[openvino]"'
)
def test_times_runtimes_against_each_other(make_model: Make) -> None:
    path = make_model("a")
    models = {"ort": variant(path), "ov": variant(path, "openvino", "f32")}
    answer = run(models, SHORT, 0)
    assert answer["runtime"].startswith("onnxruntime ") and ", openvino 20" in answer["runtime"]
    assert {name: len(times) for name, times in answer["samples_ns"].items()} == {"ort": 5, "ov": 5}
    with pytest.raises(MeasurementError, match=r"model 'ov' cannot be loaded: .*not 'int4'"):
        run({**models, "ov": variant(path, "openvino", "int4")}, SHORT, 0)


def test_a_primer_is_the_same_models_call_right_before() -> None:
    log: list[str] = []
    calls = {name: (lambda name=name: log.append(name)) for name in "ab"}
    samples = time_rounds(calls, 10, random.Random(0), primers=2)
    assert len(log) == 60 and all(len(times) == 10 for times in samples.values())
    assert all(len(set(log[i : i + 3])) == 1 for i in range(0, 60, 3))


def test_calls_in_random_order_and_leaves_the_collector_on() -> None:
    log: list[str] = []
    calls = {name: (lambda name=name: log.append(name)) for name in "abc"}
    time_rounds(calls, 30, random.Random(0))
    rounds = ["".join(log[i : i + 3]) for i in range(0, 90, 3)]
    assert all(sorted(each) == ["a", "b", "c"] for each in rounds)
    assert len(set(rounds)) == 6  # every order occurs
    assert gc.isenabled()


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "uint8", "bool"])
def test_makes_up_inputs_of_every_kind(dtype: str) -> None:
    spec = {"x": TensorSpec("x", dtype, (4, 50))}
    x = random_feed(spec, 3)["x"]
    assert (x.dtype, x.shape) == (np.dtype(dtype), (4, 50))
    assert len(np.unique(x)) > 1
    np.testing.assert_array_equal(x, random_feed(spec, 3)["x"])
    if not dtype.startswith("float"):
        assert set(np.unique(x.astype(int))) == {0, 1}


def test_refuses_what_cannot_be_made_up(make_model: Make) -> None:
    strings = make_model(dtype=TensorProto.STRING, op="Identity")
    with pytest.raises(MeasurementError, match=r"tensor\(string\), which cannot be made up"):
        timed({"a": strings})


def test_takes_a_fixed_batch_and_a_scalar(make_model: Make) -> None:
    timed({"a": make_model("a", (1, 3)), "b": make_model("b", ("N", 3))})
    timed({"a": make_model("a", ())})
    with pytest.raises(MeasurementError, match="not batches of 2"):
        timed({"a": make_model("a", (1, 3))}, Protocol(rounds=1, warmup_ms=0, batch=2))


def test_refuses_other_open_axes(make_model: Make) -> None:
    with pytest.raises(MeasurementError, match="an axis besides the batch is open in x"):
        timed({"a": make_model("a", ("N", "T"))})


@pytest.mark.parametrize(
    "other",
    [{"shape": ("N", 3, 5)}, {"dtype": TensorProto.INT64, "op": "Abs"}, {"input_name": "z"}],
)
def test_refuses_models_of_different_inputs(make_model: Make, other: dict[str, Any]) -> None:
    with pytest.raises(MeasurementError, match="take different inputs: a has x"):
        timed({"a": make_model("a"), "b": make_model("b", **other)})


def test_says_which_model_cannot_be_loaded(make_model: Make, tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"not ONNX")
    with pytest.raises(MeasurementError, match="model 'b' cannot be loaded") as caught:
        timed({"a": make_model(), "b": tmp_path / "bad.onnx"})
    assert "\n" not in str(caught.value)


def test_parts_of_a_model_need_not_take_the_same_inputs(make_model: Make) -> None:
    models = {
        "a": variant(make_model("a", ("N", 3, 4))),
        "b": variant(make_model("b", ("N", 5), input_name="link")),
    }
    with pytest.raises(MeasurementError):
        run(models, SHORT, 0)
    answer = run(models, SHORT, 0, same_inputs=False)
    assert {name: len(times) for name, times in answer["samples_ns"].items()} == {"a": 5, "b": 5}
