"""What `edgekd targets probe` measures with, and the models that it ships for that."""

from __future__ import annotations

from pathlib import Path

import make_probe_models
import numpy as np
import onnxruntime as ort
import pytest
from edgekd_hardware.rates import MODELS, array_bytes
from hypothesis import given
from hypothesis import strategies as st

from edgekd.bench.bandwidth_worker import run
from edgekd.bench.runner import run_worker
from edgekd.errors import MeasurementError

MIB = 2**20
SIZES = st.integers(MIB, 2**40)


def test_the_shipped_models_are_those_that_the_script_writes() -> None:
    shipped = {path.name: path.read_bytes() for path in MODELS.iterdir()}
    assert shipped == make_probe_models.models()


def test_the_products_are_one_packed_kernel_each(tmp_path: Path) -> None:
    """The weights become constants when the file is opened; else packing them would be timed."""
    import onnx

    for name, op in (("float32", "MatMul"), ("int8", "QLinearMatMul")):
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / f"{name}.onnx")
        options.log_severity_level = 3
        ort.InferenceSession(str(MODELS / f"matmul_{name}.onnx"), options)
        graph = onnx.load(options.optimized_model_filepath).graph
        assert [node.op_type for node in graph.node] == [op]


@pytest.mark.parametrize("name", ["few", "many"])
def test_no_node_of_a_chain_is_left_out(tmp_path: Path, name: str) -> None:
    import onnx

    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "chain.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(str(MODELS / f"overhead_{name}.onnx"), options)
    nodes = onnx.load(options.optimized_model_filepath).graph.node
    assert len(nodes) == make_probe_models.COPIES[name]


def test_the_int8_product_computes() -> None:
    session = ort.InferenceSession(str(MODELS / "matmul_int8.onnx"))
    x = np.full((2, 1024), 128, np.uint8)
    x[1, :4] = 131  # 4 x 3 x 3 steps of 0.02 x 0.02, in steps of 0.02
    (y,) = session.run(None, {"x": x})
    assert (y[0] == 128).all()
    assert (y[1] == 128 + round(36 * 0.02)).all()


@given(SIZES, SIZES)
def test_arrays_exceed_the_cache_where_memory_allows(cache: int, available: int) -> None:
    size = array_bytes(cache, available)
    assert size % 8 == 0
    assert size <= max(MIB, available // 8)
    assert size >= min(2 * cache, available // 8) // 8 * 8


def test_arrays_where_nothing_is_known() -> None:
    assert array_bytes(None, None) == 64 * MIB


@pytest.mark.parametrize("threads", [1, 3])
def test_memory(threads: int) -> None:
    rates = run(array_bytes=MIB + 8, threads=threads, seconds=0.0)
    assert set(rates) == {"copy", "add"}
    assert all(0 < rate < 1e5 for rate in rates.values())


def test_memory_that_is_not_there_is_one_line() -> None:
    job = {"array_bytes": 2**60, "threads": 1, "seconds": 0.0}
    with pytest.raises(MeasurementError, match="no memory for three arrays"):
        run_worker("edgekd.bench.bandwidth_worker", job, 60)
