"""One file with branches gives what the segments give, and skips what it does not need."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from exits import (
    CASES,
    EXITS,
    expected,
    exported,
    inputs_of,
    middle_thresholds,
    open_session,
    own_spec,
    segments_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from edgekd.errors import ExportError
from edgekd.export.single_file import single_file
from edgekd.spec import ModelSpec, TensorSpec

Thresholds = list[float | None]


def built(name: str, kind: str, thresholds: Thresholds) -> bytes:
    return single_file(segments_of(name, kind), own_spec(exported(name, kind)[1]), thresholds)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_gives_what_the_segments_give(name: str, kind: str) -> None:
    feed = inputs_of(name, 12)
    session = open_session(built(name, kind, [None, None]), kind)
    middle = middle_thresholds(name, kind, feed)
    for thresholds in ([2.0, 2.0], [-1.0, 0.0], middle, [2.0, middle[1]], [middle[0], 2.0]):
        given = {**feed, "thresholds": np.array(thresholds, np.float32)}
        output, exits = session.run(["output_0", "exit"], given)
        answers, left = expected(name, kind, thresholds, feed)
        np.testing.assert_array_equal(exits, left)
        np.testing.assert_allclose(output, answers, rtol=1e-4, atol=1e-5)
    assert set(expected(name, kind, middle, feed)[1]) == {0, 1, 2}


@pytest.fixture(scope="module")
def session() -> onnxruntime.InferenceSession:
    return open_session(built("encoder", "float", [None, None]))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(0, 1, width=32), min_size=2, max_size=2), st.integers(1, 6))
def test_a_batch_is_its_samples(
    session: onnxruntime.InferenceSession, thresholds: list[float], count: int
) -> None:
    feed = inputs_of("encoder", count)
    level = np.array(thresholds, np.float32)
    together = session.run(["output_0", "exit"], {**feed, "thresholds": level})
    for i in range(count):
        one = {key: array[i : i + 1] for key, array in feed.items()}
        output, exit = session.run(["output_0", "exit"], {**one, "thresholds": level})
        assert exit[0] == together[1][i]
        np.testing.assert_allclose(output[0], together[0][i], rtol=1e-4, atol=1e-5)


def test_thresholds_have_a_default() -> None:
    session = open_session(built("cnn", "onnxruntime", [None, -1.0]))
    assert [value.name for value in session.get_inputs()] == ["x"]
    assert [value.name for value in session.get_overridable_initializers()] == ["thresholds"]
    feed = inputs_of("cnn", 3)
    np.testing.assert_array_equal(session.run(["exit"], feed)[0], [1, 1, 1])
    proto = onnx.load_from_string(built("cnn", "onnxruntime", [None, -1.0]))
    stored = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    np.testing.assert_array_equal(stored["thresholds"], np.array([np.inf, -1], np.float32))


def test_onnxruntime_skips_the_branch(tmp_path: Path) -> None:
    """ONNX Runtime's own profile names the layers that ran."""
    model, feed = built("cnn", "onnxruntime", [0.0, None]), inputs_of("cnn", 2)
    ran = {level: layers_run(model, feed, level, tmp_path) for level in (0.0, 2.0)}
    assert "segment_0/stem.0" in ran[0.0] and not any("segment_1" in name for name in ran[0.0])
    assert any(name.startswith("segment_2/heads.0") for name in ran[2.0])


def layers_run(model: bytes, feed: dict[str, Any], level: float, folder: Path) -> set[str]:
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.log_severity_level = True, 3
    options.profile_file_prefix = str(folder / f"profile_{level}")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    session.run(["exit"], {**feed, "thresholds": np.array([level, level], np.float32)})
    events = json.loads(Path(session.end_profiling()).read_text())
    return {
        event["name"].removesuffix("_kernel_time")
        for event in events
        if event["name"].endswith("_kernel_time")
    }


def test_layers_in_branches_run_on_integers(tmp_path: Path) -> None:
    path = tmp_path / "optimised.onnx"
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath, options.log_severity_level = str(path), 3
    model = built("cnn", "onnxruntime", [None, None])
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    types = [node.op_type for node in every_node(onnx.load(path).graph)]
    assert types.count("QLinearConv") == 8 and types.count("QLinearAdd") == 3
    assert "Conv" not in types and "Add" not in types


def every_node(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    found = list(graph.node)
    for node in graph.node:
        for attribute in node.attribute:
            found += every_node(attribute.g) if attribute.HasField("g") else []
    return found


def test_refuses_what_it_cannot_write() -> None:
    segments, spec = segments_of("cnn", "float"), own_spec(exported("cnn", "float")[1])
    with pytest.raises(ExportError, match="2 exits need as many thresholds, not 1"):
        single_file(segments, spec, [None])
    with pytest.raises(ExportError, match="already has an input or output 'exit'"):
        bad = ModelSpec(spec.inputs, (TensorSpec("exit", "float32", (None, 5)),))
        single_file(segments, bad, [None, None])
    with pytest.raises(ExportError, match="only a model of one output"):
        whole = exported("cnn", "float")[1]
        assert len(whole.outputs) == len(EXITS) + 1
        single_file(segments, whole, [None, None])
