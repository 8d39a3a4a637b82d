"""Our side of timing and looking into an engine: order of calls, shapes, giving back.

In place of TensorRT's engine stands arithmetic of numpy, in place of the GPU the CPU's memory
(tests/host_cuda.c). What TensorRT does is in test_on_gpu.py.
"""

from __future__ import annotations

import ctypes
import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from engine_entries import ENTRY
from host_cuda import compile_driver, count

from edgekd.engine import latency
from edgekd.engine.latency import Bound, example, measure, summary
from edgekd.engine.trial import look
from edgekd.runtime.cuda import Cuda
from edgekd.runtime.engine_manifest import EngineEntry, ShapeRange, parse_engines

SHAPES = {"x": ShapeRange((1, 3), (2, 3), (8, 3))}
INT8, FLOAT = ({"Format/Datatype": said} for said in ("Int8", "Float"))
LAYERS = [
    {"Name": "a", "LayerType": "gemm", "Inputs": [INT8], "Outputs": [FLOAT]},
    {"Name": "b", "LayerType": "gemm", "Inputs": [FLOAT], "Outputs": [FLOAT]},
]


class Context:
    """y = 2 x; counts its runs, and tells a profiler of both layers."""

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = ()
        self.addresses: dict[str, int] = {}
        self.profiler: Any = None
        self.runs = 0

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        return shape[0] <= 8

    def get_tensor_shape(self, _name: str) -> tuple[int, ...]:
        return self.shape

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        size = int(np.prod(self.shape))
        x, y = (
            np.ctypeslib.as_array((ctypes.c_float * size).from_address(self.addresses[name]))
            for name in "xy"
        )
        y[:] = 2 * x
        self.runs += 1
        for layer in LAYERS if self.profiler is not None else ():
            self.profiler.report_layer_time(layer["Name"], 0.25)
        return stream != 0


class Inspector:
    execution_context: Any = None

    def get_engine_information(self, kind: str) -> str:
        known = self.execution_context is not None and kind == "JSON"
        return json.dumps({"Layers": LAYERS if known else ["a", "b"]})


class Engine:
    num_io_tensors = 2

    def __init__(self) -> None:
        self.contexts: list[Context] = []

    def get_tensor_name(self, index: int) -> str:
        return "xy"[index]

    def get_tensor_dtype(self, _name: str) -> Any:
        return SimpleNamespace(name="FLOAT")

    def create_execution_context(self) -> Context:
        self.contexts.append(Context())
        return self.contexts[-1]

    def create_engine_inspector(self) -> Inspector:
        return Inspector()


TRT = SimpleNamespace(LayerInformationFormat=SimpleNamespace(JSON="JSON"), IProfiler=object)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    return compile_driver(tmp_path_factory.mktemp("driver"))


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "WARM_UP_S", 0.01)


@pytest.fixture
def entry() -> EngineEntry:
    (found,) = parse_engines([ENTRY], ["model.engine", "model.onnx"], ["compressed"], ["x"])
    return replace(found, shapes=SHAPES)


def alive(library: str) -> list[int]:
    return [count(library, what) for what in ("allocations", "streams", "events", "graphs_alive")]


def test_an_engine_is_timed_at_both_sizes_and_its_layers_read(
    library: str, entry: EngineEntry
) -> None:
    engine, before = Engine(), alive(library)
    found = look(TRT, engine, Cuda(library), entry, ["a", "b", "c"])

    assert [row["shapes"] for row in found["latency"]] == [{"x": [2, 3]}, {"x": [8, 3]}]
    for row in found["latency"]:
        assert row["without_graph"] == row["with_graph"]
        assert row["with_graph"] == {"runs": 300, "median_ms": 1.5, "p90_ms": 1.5, "p99_ms": 1.5}
    assert found["layers"] == {
        "count": 2,
        "precisions": {"int8": 1, "float32": 1},
        "quantized": 3,
        "fallbacks": {"b": "float32"},
        "unseen": ["c"],
    }
    assert [layer["milliseconds"] for layer in found["layer_list"]["layers"]] == [0.25, 0.25]
    json.dumps(found, allow_nan=False)
    assert len(engine.contexts) == 2
    assert alive(library) == before


def test_answers_are_those_of_the_inputs(library: str) -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    bound = Bound(Engine(), Cuda(library), {"x": x})
    bound.run()
    np.testing.assert_array_equal(bound.outputs()["y"], 2 * x)
    bound.close()


def test_an_engine_that_no_graph_can_record_is_timed_without(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound = Bound(Engine(), Cuda(library), example(Engine(), {"x": (2, 3)}))

    def refuse() -> None:
        raise RuntimeError("cuStreamEndCapture: operation not permitted")

    monkeypatch.setattr(bound, "record_graph", refuse)
    found = measure(bound, {"x": (2, 3)})
    bound.close()
    assert found["with_graph"] is None and "not permitted" in found["no_graph"]
    assert found["without_graph"]["runs"] == 300


def test_a_shape_that_the_engine_refuses_is_told(library: str) -> None:
    with pytest.raises(RuntimeError, match=r"does not take \(9, 3\)"):
        Bound(Engine(), Cuda(library), {"x": np.zeros((9, 3), np.float32)})


def test_percentiles_that_few_runs_cannot_carry_are_left_out() -> None:
    assert summary([1.0] * 9)["p90_ms"] is None and summary([1.0] * 99)["p99_ms"] is None
    many = summary([float(i) for i in range(1, 101)])
    assert many["median_ms"] <= many["p90_ms"] <= many["p99_ms"]


def test_the_real_binding_has_what_is_used() -> None:
    trt = pytest.importorskip(
        "tensorrt_rtx",
        reason="needs TensorRT-RTX: pip install 'edgekd[trt-check]'",
        exc_type=ImportError,
    )
    used = {
        "ICudaEngine": "create_engine_inspector create_execution_context get_tensor_dtype "
        "get_tensor_name num_io_tensors",
        "EngineInspector": "execution_context get_engine_information",
        "IExecutionContext": "execute_async_v3 get_tensor_shape profiler set_input_shape "
        "set_tensor_address",
        "IProfiler": "report_layer_time",
        "LayerInformationFormat": "JSON",
    }
    for kind, names in used.items():
        assert all(hasattr(getattr(trt, kind), name) for name in names.split()), kind
