"""Tiny ONNX files to time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from onnx import TensorProto, helper

Make = Callable[..., Path]


@pytest.fixture
def make_model(tmp_path: Path) -> Make:
    """Return a function that writes y = relu(... relu(x)) and returns its path."""

    def make(
        name: str = "tiny",
        shape: Sequence[int | str] = ("N", 3, 4),
        dtype: int = TensorProto.FLOAT,
        *,
        op: str = "Relu",
        depth: int = 1,
        input_name: str = "x",
    ) -> Path:
        names = [input_name, *(f"t{i}" for i in range(depth - 1)), "y"]
        graph = helper.make_graph(
            [helper.make_node(op, [a], [b]) for a, b in pairwise(names)],
            "chain",
            [helper.make_tensor_value_info(input_name, dtype, list(shape))],
            [helper.make_tensor_value_info("y", dtype, None)],
        )
        opsets = [helper.make_opsetid("", 17)]
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(
            helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
        )
        return path

    return make
