"""ONNX files whose latencies differ by far more than any noise."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

MakeModel = Callable[..., Path]


@pytest.fixture
def make_chain(tmp_path: Path) -> MakeModel:
    """Return a function that writes a chain of matrix products and returns its path."""

    def make(name: str, depth: int, width: int = 64) -> Path:
        weight = np.eye(width, dtype=np.float32)
        names = ["x", *(f"t{i}" for i in range(depth - 1)), "y"]
        graph = helper.make_graph(
            [helper.make_node("MatMul", [a, "w"], [b]) for a, b in pairwise(names)],
            "chain",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", width])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", width])],
            [numpy_helper.from_array(weight, "w")],
        )
        path = tmp_path / f"{name}.onnx"
        opsets = [helper.make_opsetid("", 17)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        path.write_bytes(model.SerializeToString())
        return path

    return make
