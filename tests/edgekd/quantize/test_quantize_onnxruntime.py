"""From a trained network to the integer kernels that ONNX Runtime runs."""

from collections.abc import Callable
from functools import cache

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from marks import with_slow
from networks import (
    IMAGE,
    NETWORKS,
    Quantized,
    build,
    clone,
    conv_bn,
    cosine,
    network,
    output_tensors,
    quantize,
    quantized,
    refresh,
    run_onnx,
    samples,
)
from onnx import numpy_helper
from torch import Tensor, nn

from edgekd.export.kernels import LAYERS, POOLINGS, SUMS, KernelReport, read_kernels
from edgekd.export.onnx import export_onnx
from edgekd.quantize import onnxruntime
from edgekd.quantize.calibrate import calibrate
from edgekd.quantize.convert import convert
from edgekd.quantize.prepare import prepare

ALL_INTEGER = ("chain", "resnet", "mobile", "concat", "hardswish", "two_inputs", "mlp", "signal")
# Other tests here have what they are made of. A network is slow in all tests: they share it.
SLOW = ("chain", "concat", "two_inputs", "mlp", "hardswish")
FLOAT_REASON = "its output is the model's output, kept in full resolution"


@cache
def journey(name: str) -> tuple[Quantized, bytes, KernelReport]:
    found = quantized(name)
    model = found.onnx()
    return found, model, read_kernels(model, found.placement.reasons)


def check_outputs(net: nn.Module, found: Quantized, model: bytes) -> None:
    """Check every step from the original to ONNX Runtime against the one before."""
    with torch.no_grad():
        original = output_tensors(net(*found.inputs))
    names = ("graph", "fake", "converted")
    in_float, fake, converted = (found.outputs(getattr(found, name)) for name in names)
    in_runtime = run_onnx(model, found.spec, *found.inputs)
    for a, b, c, d, e in zip(original, in_float, fake, converted, in_runtime, strict=True):
        size = float(a.abs().max())
        assert torch.allclose(a, b, atol=1e-5 * max(1, size))
        assert cosine(b, c) > 0.999
        # A rounding that goes the other way shifts an output by a part of a step.
        assert float((c - d).abs().max()) < 0.01 * size
        assert float((d - torch.from_numpy(e)).abs().max()) < 0.01 * size


@pytest.mark.parametrize("name", with_slow(NETWORKS, SLOW))
def test_outputs_stay_close_at_every_step(name: str) -> None:
    found, model, _ = journey(name)
    check_outputs(network(name)[0], found, model)


@pytest.mark.parametrize("name", with_slow(ALL_INTEGER, SLOW))
def test_everything_runs_on_integers(name: str) -> None:
    _, _, report = journey(name)
    in_float = [layer for layer in report.layers if layer.precision != "int8"]
    assert not in_float and report.layers
    assert "Conv" not in report.operations and "Gemm" not in report.operations


@pytest.mark.parametrize("name", with_slow(NETWORKS, SLOW))
def test_the_report_counts_and_explains(name: str) -> None:
    _, _, report = journey(name)
    assert all(layer.reason for layer in report.layers if layer.precision != "int8")
    assert {layer.op for layer in report.layers} <= {*LAYERS, *SUMS, *POOLINGS}
    integer = [layer for layer in report.layers if layer.precision == "int8"]
    assert report.count(*LAYERS, *SUMS, *POOLINGS) == (len(integer), len(report.layers))
    data = report.to_dict()
    assert data["integer_layers"] == sum(layer.op in LAYERS for layer in integer)
    assert data["sums_total"] == sum(layer.op in SUMS for layer in report.layers)
    kernels = {"Conv": "QLinearConv", "Add": "QLinearAdd", "Gemm": "QGemm"}
    for op, kernel in kernels.items():
        assert report.count(op)[0] == report.operations.get(kernel, 0)


@pytest.mark.parametrize(("target", "largest"), [("cpu-avx2", 63), ("cpu-vnni", 127)])
def test_two_products_fit_into_16_bits_where_they_are_added_in_16(
    target: str, largest: int
) -> None:
    net, inputs = network("chain")
    model = onnx.load_from_string(quantize(net, *inputs, target=target).onnx())
    stored = [numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    codes = [array for array in stored if array.dtype == np.int8 and array.ndim > 1]
    assert codes and all(np.abs(array.astype(int)).max() == largest for array in codes)


def test_layers_are_named_after_their_weights() -> None:
    _, _, report = journey("resnet")
    names = [layer.name for layer in report.layers if layer.op in LAYERS]
    assert names[:3] == ["stem.0", "blocks.0.a.0", "blocks.0.b.0"] and names[-1] == "head"


def test_a_convolution_as_output_stays_in_float_and_says_why() -> None:
    found, _, report = journey("dense_output")
    assert found.placement.reasons == {"head": FLOAT_REASON}
    assert [(x.name, x.reason) for x in report.layers if x.precision == "float32"] == [
        ("head", FLOAT_REASON)
    ]


def test_layers_named_by_the_caller_stay_in_float() -> None:
    graph = journey("resnet")[0].graph
    name, why = "blocks.0.a.0", "it paid for the accuracy budget"
    placement = onnxruntime.place(graph, {name: why})
    everything = onnxruntime.place(graph)
    assert placement.reasons == {name: why}
    assert len(placement.weights) == len(everything.weights) - 1


@pytest.mark.parametrize(
    ("name", "layer"),
    [pytest.param("chain", "b.0", marks=pytest.mark.slow), ("mobile", "depth.0")],
)
def test_onnx_runtime_does_not_quantize_what_was_left_in_float(name: str, layer: str) -> None:
    found = journey(name)[0]
    placement = onnxruntime.place(found.graph, {layer: "asked for"})
    names = [tensor.node for tensor in placement.tensors]
    ranges = calibrate(found.graph, names, lambda: [found.inputs], found.scheme, "minmax")
    module = clone(found.graph)
    prepare(module, placement, found.scheme, ranges)
    fake = found.outputs(module)[0]
    convert(module, found.scheme)
    example = tuple(x[:2] for x in found.inputs)
    model = export_onnx(refresh(module, example), example, found.spec, opset=17)
    layers = read_kernels(model, placement.reasons).layers
    assert {x.name: x.reason for x in layers if x.precision != "int8"} == {layer: "asked for"}
    (in_runtime,) = run_onnx(model, found.spec, *found.inputs)
    assert float((fake - torch.from_numpy(in_runtime)).abs().max()) < 0.02 * float(fake.abs().max())


def test_a_transformer_runs_its_layers_on_integers() -> None:
    found, _, report = journey("transformer")
    layers = {layer.name: layer for layer in report.layers}
    for name in ("qkv", "out", "up", "down", "head"):
        assert layers[name].precision == "int8"
    # Residual sums feed LayerNorm, which is in float: quantizing them would gain nothing.
    assert layers["mean"].reason == "ONNX Runtime has no integer kernel for ReduceMean"
    products = {"matmul", "matmul_1", "mul"}  # the last is the scale of the scores
    reasons = found.placement.reasons
    assert set(reasons) == {"add", "add_1"} | products
    assert {name: layers[name].reason for name in reasons} == reasons  # not one read off the graph
    # The layers see two axes, so that each takes its bias along.
    assert report.operations["QGemm"] == 5
    assert report.operations["Add"] == 3  # two residual sums, and one in GELU below opset 20


def test_weights_are_stored_as_integers() -> None:
    found, model, _ = journey("chain")
    constants = dict(found.converted.named_buffers())
    assert not list(found.converted.parameters())
    assert constants["a.0.weight_codes"].dtype == torch.int8
    assert constants["a.0.bias_codes"].dtype == torch.int32
    assert int(constants["a.0.weight_codes"].min()) >= -127
    assert b"a.0.weight_codes" in model


class Lambda(nn.Module):
    def __init__(self, function: Callable[..., Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.a, self.b, self.c = conv_bn(3, 8), conv_bn(8, 8), conv_bn(8, 8)
        self.head = nn.Linear(8, 5)
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)

    def classify(self, x: Tensor) -> Tensor:
        return self.head(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


def readers(s: Lambda, x: Tensor) -> Tensor:
    """Tensors with several readers: behind and before a ReLU, twice in one sum, in a gate."""
    y = s.a(x)
    z = F.relu(y)
    z = F.relu(s.b(z)) + F.max_pool2d(z, 3, 1, 1) + y
    z = F.relu(s.c(z + z))
    return s.classify(s.d(z * torch.sigmoid(s.gate(F.adaptive_avg_pool2d(z, 1)))))


def sharing(s: Lambda, x: Tensor) -> Tensor:
    """A convolution used twice, a sum that broadcasts, a tensor twice in a concatenation."""
    y = F.relu(s.shared(F.relu(s.shared(F.relu(s.a(x))))))
    y = F.relu(s.b(y + F.adaptive_avg_pool2d(y, 1)))
    z = torch.cat([torch.cat([y, y], 1), x, F.relu(s.c(y))], 1)
    return s.classify(F.relu(s.wide(z)))


def moves(s: Lambda, x: Tensor) -> Tensor:
    """Shuffled channels, upsampling, pooling with padding, pooling to a vector."""
    y = F.relu(s.a(x))
    y = y.view(y.size(0), 2, 4, 8, 8).transpose(1, 2).contiguous().view(y.size(0), 8, 8, 8)
    y = F.relu(s.b(F.interpolate(F.relu(s.c(y)), scale_factor=2.0)))
    y = F.max_pool2d(F.max_pool2d(F.avg_pool2d(y, 3, 2, 1), 2), 4)
    return s.head(y.view(y.size(0), -1))


def halves(s: Lambda, x: Tensor) -> Tensor:
    """Channels split and put together, named padding."""
    y, z = F.relu(s.same(F.relu(s.a(x)))).chunk(2, 1)
    return s.classify(F.relu(s.b(torch.cat([z, F.relu(s.narrow(y))], 1))))


CASES: dict[Callable[..., Tensor], dict[str, Callable[[], nn.Module]]] = {
    readers: {"gate": lambda: nn.Conv2d(8, 8, 1), "d": lambda: conv_bn(8, 8)},
    sharing: {
        "shared": lambda: nn.Conv2d(8, 8, 3, padding=1),
        "wide": lambda: conv_bn(27, 8),
    },
    moves: {},
    halves: {
        "same": lambda: nn.Conv2d(8, 8, 3, padding="same"),
        "narrow": lambda: conv_bn(4, 4),
    },
}


@pytest.mark.parametrize("function", CASES, ids=lambda f: f.__name__)
def test_patterns_run_on_integers(function: Callable[..., Tensor]) -> None:
    layers = CASES[function]
    net = build(lambda: Lambda(function, **{name: make() for name, make in layers.items()}))
    found = quantize(net, samples(16, *IMAGE))
    model = found.onnx()
    check_outputs(net, found, model)
    report = read_kernels(model, found.placement.reasons)
    assert [layer for layer in report.layers if layer.precision != "int8"] == []


class Tied(nn.Module):
    """One linear layer used twice, on tensors of different ranges."""

    def __init__(self) -> None:
        super().__init__()
        self.tied, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.tied(F.relu(self.tied(x)))))


def test_a_shared_bias_is_stored_for_each_layer() -> None:
    net = build(Tied)
    found = quantize(net, samples(16, 8) * 5)
    model = found.onnx()
    check_outputs(net, found, model)
    assert read_kernels(model).operations["QGemm"] == 3


def test_a_clamp_disappears_in_the_quantizer() -> None:
    net = build(lambda: nn.Sequential(conv_bn(3, 8), nn.ReLU6(), conv_bn(8, 8), nn.Flatten()))
    found = quantize(net, samples(16, *IMAGE) * 20)  # large enough to reach 6
    (clamped,) = [q for q in found.quantizers if q.max_scale is not None]
    assert clamped.max_scale == pytest.approx(6 / 255) and clamped.zero_point == 0
    with torch.no_grad():
        clamped.log_scale += 1.0  # training cannot move it past the ceiling
        assert float(clamped.scale()) == pytest.approx(6 / 255)
    report = found.kernels()
    assert report.operations["QLinearConv"] == 1 and "Clip" not in report.operations


def test_a_channel_without_weights_keeps_its_bias() -> None:
    net = build(lambda: nn.Sequential(conv_bn(3, 8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 3)))
    with torch.no_grad():
        net[0][0].weight[:3] *= torch.tensor([0.0, 1e-9, 1e-35]).reshape(3, 1, 1, 1)
        net[0][1].running_mean[:3] = 0
        net[0][1].bias[:3] = 0.3333
    found = quantize(net, samples(16, *IMAGE))
    check_outputs(net, found, found.onnx())
    codes = found.converted.get_buffer("0.0.bias_codes").double()
    stored = codes * found.converted.get_buffer("0.0.bias_scale").double()
    assert torch.allclose(stored[:3], torch.full((3,), 0.3333, dtype=torch.float64), atol=1e-3)


def test_a_dead_layer_and_constant_inputs_do_no_harm() -> None:
    net = build(lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)))
    with torch.no_grad():
        net[0].weight.zero_()
        net[0].bias.fill_(-1.0)
    for x in (torch.zeros(4, 4), torch.full((4, 4), 2.5), torch.full((4, 4), -2.5)):
        found = quantize(net, x, method="mse")
        with torch.no_grad():
            assert torch.allclose(found.outputs(found.converted)[0], net(x), atol=1e-2)


def test_a_computed_weight_stays_in_float_and_says_why() -> None:
    class Computed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.head = nn.Parameter(samples(8, 8)), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.linear(x, self.weight.tanh()))

    found = quantize(build(Computed), samples(8, 8))
    assert list(found.placement.reasons.values()) == ["its weight is computed, not stored"]
    report = found.kernels()
    assert sorted(layer.precision for layer in report.layers) == ["float32", "int8"]
