import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.errors import ExportError
from edgekd.export.kernels import _kernel_of, read_kernels


def save(nodes: list[onnx.NodeProto], **stored: np.ndarray) -> bytes:
    def tensor(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4])

    initializers = [numpy_helper.from_array(value, name) for name, value in stored.items()]
    graph = helper.make_graph(nodes, "graph", [tensor("x")], [tensor("y")], initializers)
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


WEIGHT = np.eye(4, dtype=np.float32)


def test_a_float_model_is_reported_as_such() -> None:
    model = save(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], name="layer"),
            helper.make_node("Relu", ["h"], ["r"], name="relu"),
            helper.make_node("Add", ["r", "x"], ["y"], name="sum"),
        ],
        w=WEIGHT,
    )
    report = read_kernels(model, {"sum": "because"})
    assert report.runtime.startswith("onnxruntime ")
    found = {layer.name: layer for layer in report.layers}
    assert found["layer"].kernel == "MatMul" and found["layer"].precision == "float32"
    assert found["layer"].reason == "reads a tensor that is not quantized, from the model's input"
    assert found["sum"].reason == "because"
    data = report.to_dict()
    counts = {name: data[name] for name in data if name.startswith(("integer", "sums", "layers_"))}
    assert counts == {"integer_layers": 0, "layers_total": 1, "integer_sums": 0, "sums_total": 1}


def test_a_weight_in_float_is_named_as_the_cause() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], name="d"),
        helper.make_node("MatMul", ["d", "w"], ["y"], name="layer"),
    ]
    scale, zero = np.array(0.1, np.float32), np.array(0, np.uint8)
    (layer,) = read_kernels(save(nodes, w=WEIGHT, s=scale, z=zero)).layers
    assert layer.reason == "its weight is not quantized"


def test_a_model_that_onnxruntime_refuses() -> None:
    broken = save([helper.make_node("MatMul", ["x", "missing"], ["y"], name="layer")])
    with pytest.raises(ExportError, match="ONNX Runtime refuses the exported model"):
        read_kernels(broken)


def test_a_kernel_is_not_taken_for_that_of_a_layer_with_a_similar_name() -> None:
    kernels = {"add_1": "QLinearAdd", "fused fc": "FusedGemm", "conv_token_7": "QLinearConv"}
    names = {"add", "add_1", "fc", "conv"}
    assert _kernel_of("add_1", kernels, names) == "QLinearAdd"
    assert _kernel_of("add", kernels, names) == ""
    assert _kernel_of("fc", kernels, names) == "FusedGemm"
    assert _kernel_of("conv", kernels, names) == "QLinearConv"
