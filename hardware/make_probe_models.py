"""Write the tiny ONNX models that `edgekd targets probe` times.

``python hardware/make_probe_models.py`` writes them into the package ``edgekd_hardware``.

They are shipped, since a board has ONNX Runtime but no `onnx` package. The weights of the products
are constants that ONNX Runtime fills in and packs when it opens the file, as those of a real model:
so a megabyte of weights takes no byte here. What the numbers are makes no difference to the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, checker, helper, numpy_helper

FOLDER = Path(__file__).parent / "edgekd_hardware" / "models"
SIZE = 1024  # inputs and outputs of the products; the rows are open
CHAIN = 16  # numbers that a trivial node works on
COPIES = {"few": 8, "many": 136}


def models() -> dict[str, bytes]:
    """Return file name -> content."""
    chains = {f"overhead_{name}": _chain(count) for name, count in COPIES.items()}
    found = {"matmul_float32": _float_product(), "matmul_int8": _integer_product(), **chains}
    return {f"{name}.onnx": model.SerializeToString() for name, model in found.items()}


def _float_product() -> ModelProto:
    product = helper.make_node("MatMul", ["x", "weight"], ["y"])
    return _product([product], np.float32(0.5), TensorProto.FLOAT)


def _integer_product() -> ModelProto:
    """The kernel that a quantized linear layer becomes: uint8 by int8, requantized to uint8."""
    inputs = ["x", "scale", "middle", "weight", "scale", "zero", "scale", "middle"]
    product = helper.make_node("QLinearMatMul", inputs, ["y"])
    constants = [
        numpy_helper.from_array(np.array(0.02, np.float32), "scale"),
        numpy_helper.from_array(np.array(128, np.uint8), "middle"),
        numpy_helper.from_array(np.array(0, np.int8), "zero"),
    ]
    return _product([product], np.int8(3), TensorProto.UINT8, constants)


def _product(
    nodes: Sequence[NodeProto],
    weight: np.generic,
    element: int,
    constants: Sequence[TensorProto] = (),
) -> ModelProto:
    value = numpy_helper.from_array(np.array([weight]), "")
    fill = helper.make_node("ConstantOfShape", ["shape"], ["weight"], value=value)
    shape = numpy_helper.from_array(np.array([SIZE, SIZE], np.int64), "shape")
    return _model([fill, *nodes], element, ["rows", SIZE], [shape, *constants])


def _chain(count: int) -> ModelProto:
    """Nodes that do next to nothing one after another; no runtime may leave one out."""
    names = ["x", *(f"x{index}" for index in range(1, count)), "y"]
    # Two kinds in turn: a node behind its like could be left out as one too many.
    kinds = ("Neg", "Abs")
    nodes = [
        helper.make_node(kinds[index % 2], [names[index]], [names[index + 1]])
        for index in range(count)
    ]
    return _model(nodes, TensorProto.FLOAT, [1, CHAIN], [])


def _model(
    nodes: Sequence[NodeProto],
    element: int,
    shape: Sequence[int | str],
    constants: Sequence[TensorProto],
) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "probe",
        [helper.make_tensor_value_info("x", element, shape)],
        [helper.make_tensor_value_info("y", element, shape)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model.producer_name = "edgekd"
    checker.check_model(model)
    return model


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, content in models().items():
        (FOLDER / name).write_bytes(content)
