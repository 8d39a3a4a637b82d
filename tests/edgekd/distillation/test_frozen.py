"""An ONNX model in the original's place: what is read of it, and which ones cannot be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgekd.data.source import Dataset, open_data
from edgekd.distillation.frozen import form_of, open_frozen, starts_as_onnx
from edgekd.errors import ModelError


def write(path: Path, node: str, batch: str | int = "N") -> Path:
    """Write a model of one node, from ``features (N, 4)`` to ``answers``."""
    initializers = []
    if node == "MatMul":
        initializers = [helper.make_tensor("w", TensorProto.FLOAT, [4, 3], np.ones(12))]
    names = ["features", *(tensor.name for tensor in initializers)]
    made = helper.make_node(node, names, ["answers"], **({"axis": 0} if node == "Flatten" else {}))
    graph = helper.make_graph(
        [made],
        "g",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [batch, 4])],
        [helper.make_tensor_value_info("answers", TensorProto.FLOAT, None)],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    path = tmp_path_factory.mktemp("frozen") / "d.npz"
    generator = np.random.default_rng(0)
    np.savez(path, x=generator.normal(size=(20, 4)).astype(np.float32))
    return open_data(str(path)).bind(["features"])


def test_names_types_and_shapes_are_those_of_the_file(tmp_path: Path, data: Dataset) -> None:
    frozen = open_frozen(write(tmp_path / "m.onnx", "MatMul"))
    form = form_of(frozen, data)
    assert [str(x) for x in (*form.spec.inputs, *form.spec.outputs)] == [
        "features: float32[N, 4]",
        "answers: float32[N, 3]",
    ]
    assert form.example[0].shape == (2, 4)


@pytest.mark.parametrize(
    ("node", "batch", "reason"),
    [
        ("MatMul", 1, "does not run on 2 of the samples"),
        ("MatMul", 2, "does not run on 3 of the samples"),
        ("Flatten", "N", r"output answers .* is \(1, 8\) for two samples"),
    ],
)
def test_a_batch_of_any_size_is_needed(
    tmp_path: Path, data: Dataset, node: str, batch: str | int, reason: str
) -> None:
    frozen = open_frozen(write(tmp_path / "m.onnx", node, batch))
    with pytest.raises(ModelError, match=f"{reason}.*export it with a free batch axis") as caught:
        form_of(frozen, data)
    assert "\n" not in str(caught.value)


def test_a_file_is_known_by_its_content(tmp_path: Path) -> None:
    assert starts_as_onnx(write(tmp_path / "model.bin", "Relu"))
    (tmp_path / "no.onnx").write_bytes(b"PK\x03\x04")
    assert not starts_as_onnx(tmp_path / "no.onnx") and not starts_as_onnx(tmp_path / "none.onnx")
    for path in (tmp_path / "no.onnx", tmp_path / "none.onnx"):
        with pytest.raises(ModelError):
            open_frozen(path)
