"""What TensorRT asks of a graph with quantizers, read from the exported file."""

from collections.abc import Callable
from functools import cache

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from marks import with_slow
from networks import (
    Quantized,
    build,
    conv_bn,
    cosine,
    network,
    quantize,
    quantized,
    run_onnx,
    samples,
)
from onnx import numpy_helper
from torch import Tensor, nn

from edgekd.quantize import tensorrt

NAMES = ("resnet", "mobile", "transformer")


class Graph:
    """An exported graph with its links."""

    def __init__(self, model: bytes) -> None:
        graph = onnx.load_from_string(model).graph
        self.nodes = list(graph.node)
        self.stored = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        self.producer = {name: node for node in self.nodes for name in node.output}

    def of(self, *types: str) -> list[onnx.NodeProto]:
        return [node for node in self.nodes if node.op_type in types]

    def readers(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        return [other for other in self.nodes if set(node.output) & set(other.input)]

    def is_quantized(self, name: str) -> bool:
        return name in self.producer and self.producer[name].op_type == "DequantizeLinear"


@cache
def exported(name: str) -> tuple[Quantized, Graph]:
    net, inputs = network(name)
    found = quantized(name, "tensorrt")
    model = found.onnx()
    (runtime,) = run_onnx(model, found.spec, *inputs)
    (converted,) = found.outputs(found.converted)
    assert torch.equal(converted, found.outputs(found.fake)[0])  # nothing but floats in between
    with torch.no_grad():
        assert cosine(converted, net(*inputs)) > 0.999
    assert np.abs(runtime - converted.numpy()).max() < 0.01 * np.abs(runtime).max()
    return found, Graph(model)


@pytest.mark.parametrize("name", with_slow(NAMES, ["mobile"]))
def test_every_quantizer_is_symmetric_int8(name: str) -> None:
    _, graph = exported(name)
    for node in graph.of("QuantizeLinear", "DequantizeLinear"):
        zero_point = graph.stored[node.input[2]]
        assert zero_point.dtype == np.int8 and not zero_point.any()
        assert (graph.stored[node.input[1]] > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_int8_per_channel_and_biases_float(name: str) -> None:
    _, graph = exported(name)
    layers = [n for n in graph.of("Conv", "Gemm", "MatMul") if "attention" not in n.name]
    checked = 0
    for node in layers:
        weight = graph.producer.get(node.input[1])
        if weight is not None and weight.op_type == "Transpose":
            weight = graph.producer.get(weight.input[0])
        if weight is None or weight.op_type != "DequantizeLinear":
            continue
        if weight.input[0] not in graph.stored:
            continue  # a product of attention
        codes, scale = (graph.stored[name] for name in weight.input[:2])
        assert codes.dtype == np.int8 and codes.min() >= -127
        assert scale.size in codes.shape
        assert graph.is_quantized(node.input[0])
        if len(node.input) > 2:
            assert graph.stored[node.input[2]].dtype == np.float32
        checked += 1
    assert checked == len(exported(name)[0].placement.weights)


@pytest.mark.parametrize("name", ["resnet", "mobile"])
def test_nothing_stands_between_a_convolution_and_what_is_fused_with_it(name: str) -> None:
    _, graph = exported(name)
    for conv in graph.of("Conv"):
        readers = graph.readers(conv)
        if "_shortcut" in conv.name or any(r.op_type == "Add" for r in readers):
            continue
        assert {r.op_type for r in readers} <= {"Relu", "Clip"}


@pytest.mark.parametrize("name", ["resnet", "mobile"])
def test_a_residual_sum_has_one_quantized_operand(name: str) -> None:
    _, graph = exported(name)
    sums = graph.of("Add")
    assert sums
    for node in sums:
        quantized = [graph.is_quantized(operand) for operand in node.input]
        assert sorted(quantized) == [False, True]
        (fused,) = [operand for operand in node.input if not graph.is_quantized(operand)]
        assert graph.producer[fused].op_type == "Conv"
        assert len(graph.readers(graph.producer[fused])) == 1


def test_the_main_branch_is_fused_and_the_shortcut_quantized() -> None:
    _, graph = exported("resnet")
    for node in graph.of("Add"):
        (fused,) = [operand for operand in node.input if not graph.is_quantized(operand)]
        assert graph.producer[fused].name.endswith("b.0")


@pytest.mark.parametrize("name", NAMES)
def test_one_tensor_has_one_quantizer(name: str) -> None:
    _, graph = exported(name)
    quantized = [node.input[0] for node in graph.of("QuantizeLinear")]
    assert len(quantized) == len(set(quantized))


@pytest.mark.parametrize("name", ["resnet", "transformer"])
def test_the_output_is_not_quantized(name: str) -> None:
    _, graph = exported(name)
    assert graph.nodes[-1].op_type == "Gemm"


def test_sums_that_cannot_be_fused_stay_in_float_and_say_why() -> None:
    class Sums(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = conv_bn(3, 4), conv_bn(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = F.relu(self.a(x))
            return self.b(y + y) + 1.0

    found = quantize(build(Sums), samples(4, 3, 8, 8), runtime="tensorrt")
    assert set(found.placement.reasons.values()) == {"not a residual sum behind a convolution"}
    assert len(found.placement.reasons) == 2


@pytest.mark.parametrize("first", [True, False])
def test_the_longer_of_two_convolutional_branches_is_fused(first: bool) -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.a, self.b = conv_bn(3, 4), conv_bn(4, 4), conv_bn(4, 4)
            self.skip, self.last = conv_bn(4, 4, size=1), conv_bn(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.stem(x))
            long, short = self.b(F.relu(self.a(x))), self.skip(x)
            return self.last(F.relu(long + short if first else short + long))

    found = quantize(build(Branches), samples(4, 3, 8, 8), runtime="tensorrt")
    (total,) = [n for n in found.graph.graph.nodes if "add" in n.name]
    into: dict[str, Callable[..., bool]] = {t.node: t.readers for t in found.placement.tensors}
    (skip,) = [node for node, readers in into.items() if total.name in readers]
    weights = {n.name: str(n.args[1]) for n in found.graph.graph.nodes if "conv" in n.name}
    assert "skip" in weights[skip]


def test_layers_named_by_the_caller_stay_in_float() -> None:
    graph = exported("resnet")[0].graph
    name, why = "blocks.0.a.0", "it paid for the accuracy budget"
    placement = tensorrt.place(graph, {name: why})
    assert placement.reasons[name] == why
    assert len(placement.weights) == len(tensorrt.place(graph).weights) - 1
