"""What a written graph says about bits and steps, held against the quantizers behind it."""

import numpy as np
import onnx
import pytest
from marks import with_slow
from networks import network, quantize, quantized
from onnx import TensorProto, helper, numpy_helper

from edgekd.export.kernels import LAYERS, read_kernels, read_placement
from edgekd.export.layer_formats import layer_format
from edgekd.export.quantized_graph import QuantizedGraph


@pytest.mark.parametrize("runtime", with_slow(["onnxruntime", "tensorrt"], ["tensorrt"]))
def test_scales_and_bits_are_those_of_the_quantizers(runtime: str) -> None:
    net, inputs = network("resnet")
    entry = {"match": "blocks.1.*", "bits": "w8a8"}
    found = quantize(net, *inputs, runtime=runtime, bits="w4a8", layers=[entry])
    model = found.onnx()
    report = read_kernels(model) if runtime == "onnxruntime" else read_placement(model, runtime)
    layers = {layer.name: layer for layer in report.layers if layer.op in LAYERS}
    stored = dict(found.converted.named_buffers())
    for name, layer in layers.items():
        weight = "selection" if name.endswith("shortcut") else "weight"
        scale = stored[f"{name}.{weight}_scale"]
        assert layer.weight_scales == pytest.approx((float(scale.min()), float(scale.max())))
        assert layer.input_scale is not None and layer.input_scale > 0
        eight = name in ("stem.0", "head") or name.startswith("blocks.1.") or weight == "selection"
        assert layer.bits == ("w8a8" if eight else "w4a8"), name
    assert report.to_dict()["bits"]["w4a8"] == 4
    sums = [layer for layer in report.layers if layer.op == "Add"]
    assert sums and {layer.bits for layer in sums} == {"a8"}
    assert all(layer.weight_scales is None for layer in sums)


@pytest.mark.parametrize(
    ("runtime", "bits"),
    with_slow([("onnxruntime", "fp32"), ("tensorrt", "a8")], [("onnxruntime", "fp32")]),
)
def test_products_of_attention_are_listed_and_no_reason_is_empty(runtime: str, bits: str) -> None:
    found = quantized("transformer", runtime)
    model, reasons = found.onnx(), found.placement.reasons
    report = (
        read_kernels(model, reasons)
        if runtime == "onnxruntime"
        else read_placement(model, runtime, reasons)
    )
    products = [
        layer for layer in report.layers if layer.op == "MatMul" and not layer.weight_scales
    ]
    assert len(products) == 2 and {layer.bits for layer in products} == {bits}
    assert all(layer.reason for layer in report.layers if layer.precision != "int8")
    named = {layer.name: layer.reason for layer in report.layers}
    assert {name: named[name] for name in reasons} == reasons


@pytest.mark.parametrize(
    ("kind", "bits"), [(TensorProto.FLOAT, "fp32"), (TensorProto.FLOAT16, "fp16")]
)
def test_float_layers_have_the_type_of_their_tensors(kind: int, bits: str) -> None:
    weight = np.eye(4, dtype=helper.tensor_dtype_to_np_dtype(kind))
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="layer")
    values = [helper.make_tensor_value_info(name, kind, ["batch", 4]) for name in ("x", "y")]
    graph = helper.make_graph(
        [node], "graph", values[:1], values[1:], [numpy_helper.from_array(weight, "w")]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    assert layer_format(QuantizedGraph(model, 17), node, integer=False).bits == bits
