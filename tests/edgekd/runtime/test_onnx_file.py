"""Bytes are one whole ONNX model, or are refused before a runtime sees them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper, onnx_ml_pb2

from edgekd.errors import BundleError
from edgekd.runtime import onnx_file
from edgekd.runtime.onnx_file import check_onnx


def elsewhere(location: str = "w.bin") -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2, 2])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def model(initializers: list[Any] = (), nodes: list[Any] = (), **more: Any) -> onnx.ModelProto:  # type: ignore[assignment]
    tensors = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2]) for name in ("x", "y")
    ]
    every = [*nodes, helper.make_node("MatMul", ["x", "w"], ["y"])]
    graph = helper.make_graph(every, "g", tensors[:1], tensors[1:], [*initializers])
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8, **more)


SOUND = model([numpy_helper.from_array(np.ones((2, 2), np.float32), "w")])


def test_the_paths_are_those_of_onnx() -> None:
    """Every way from a model to a tensor, by ONNX's own description."""
    messages = onnx_ml_pb2.DESCRIPTOR.message_types_by_name

    def inner(name: str) -> dict[int, str]:
        fields = messages[name].fields
        found = {f.number: f.message_type.name for f in fields if f.message_type}
        return {number: kind for number, kind in found.items() if kind in messages}

    def leads(name: str, above: tuple[str, ...] = ()) -> bool:
        below = (kind for kind in inner(name).values() if kind not in (*above, name))
        return name == "TensorProto" or any(leads(kind, (*above, name)) for kind in below)

    expected: dict[str, dict[int, str]] = {"TensorProto": {}}
    todo = ["ModelProto"]
    while todo:
        name = todo.pop()
        if name not in expected:
            expected[name] = {number: kind for number, kind in inner(name).items() if leads(kind)}
            todo += expected[name].values()
    assert expected == onnx_file.PATHS
    numbers = {f.name: f.number for f in messages["TensorProto"].fields}
    assert numbers["external_data"] == onnx_file.EXTERNAL_DATA
    assert numbers["data_location"] == onnx_file.DATA_LOCATION


def test_takes_a_model_even_if_it_speaks_of_locations() -> None:
    named = model([*SOUND.graph.initializer], producer_name="location")
    named.graph.initializer.append(numpy_helper.from_array(np.arange(3), "location"))
    for content in (SOUND.SerializeToString(), named.SerializeToString()):
        check_onnx(content, "model.onnx")


WAYS = {
    "initializer": model([elsewhere()]),
    "attribute": model(nodes=[helper.make_node("Constant", [], ["w"], value=elsewhere())]),
    "tensors": model(nodes=[helper.make_node("Any", [], ["w"], values=[elsewhere()])]),
    "body": model(
        nodes=[
            helper.make_node(
                "If", ["c"], ["w"], then_branch=helper.make_graph([], "t", [], [], [elsewhere()])
            )
        ]
    ),
    "sparse": model(
        nodes=[
            helper.make_node(
                "Constant",
                [],
                ["w"],
                sparse_value=onnx.SparseTensorProto(values=elsewhere(), dims=[2, 2]),
            )
        ]
    ),
    "function": model(
        functions=[
            helper.make_function(
                "d",
                "F",
                [],
                ["w"],
                [helper.make_node("Constant", [], ["w"], value=elsewhere())],
                [helper.make_opsetid("", 17)],
            )
        ]
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_refuses_weights_in_other_files_wherever_they_are(way: str) -> None:
    with pytest.raises(BundleError, match=r"model\.onnx keeps weights in other files"):
        check_onnx(WAYS[way].SerializeToString(), "model.onnx")


def test_onnxruntime_would_have_read_them(tmp_path: Path, monkeypatch: Any) -> None:
    """Else this check would be for nothing: bytes reach files of the current folder."""
    np.full((2, 2), 3, np.float32).tofile(tmp_path / "w.bin")
    monkeypatch.chdir(tmp_path)
    assert Path(os.curdir).resolve() == tmp_path.resolve()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = WAYS["initializer"].SerializeToString()
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {"x": np.ones((1, 2), np.float32)})
    assert answer.tolist() == [[6, 6]]


@given(st.binary(max_size=300) | st.binary(max_size=60).map(lambda b: b"\x08\x08\x3alocation" + b))
def test_any_bytes(content: bytes) -> None:
    try:
        check_onnx(content, "model.onnx")
    except BundleError as error:
        assert str(error).isprintable()


@given(st.integers(0, 10**6), st.integers(0, 7))
def test_any_flipped_bit(place: int, bit: int) -> None:
    content = bytearray(WAYS["body"].SerializeToString())
    content[place % len(content)] ^= 1 << bit
    try:
        check_onnx(bytes(content), "model.onnx")
    except BundleError as error:
        assert str(error).isprintable()


def test_deep_graphs_need_no_deep_stack() -> None:
    inner = elsewhere().SerializeToString()
    content = b""
    for number in [5] + [6, 5, 1] * 3000:  # initializer; attribute.g, node.attribute, graph.node
        content = onnx_bytes(number, content or inner)
    with pytest.raises(BundleError, match="keeps weights in other files"):
        check_onnx(b"\x08\x08" + onnx_bytes(7, content), "model.onnx")


def onnx_bytes(number: int, content: bytes) -> bytes:
    size, length = len(content), b""
    while size >= 0x80:
        length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content
