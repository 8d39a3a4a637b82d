"""Weights of 4 bits in groups: from torch to the kernel that ONNX Runtime makes of them."""

from collections.abc import Callable

import onnx
import pytest
import torch
from marks import with_slow
from networks import build, cosine, network, quantize, run_onnx, samples
from onnx import TensorProto
from torch import nn

from edgekd.export.kernels import read_kernels

GROUPS = {"bits": "w4a16", "group_size": 16, "keep_ends": False}


def stack(*layers: Callable[[], nn.Module]) -> nn.Module:
    return build(lambda: nn.Sequential(*(make() for make in layers)))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "relu": (lambda: network("mlp")[0], (16,)),
    "transformer": (lambda: network("transformer")[0], (6, 16)),
    "no bias": (
        lambda: stack(
            lambda: nn.Linear(32, 16, bias=False), nn.ReLU6, lambda: nn.Linear(16, 4, bias=False)
        ),
        (5, 32),
    ),
    "clamp": (lambda: stack(lambda: nn.Linear(32, 16), nn.ReLU6, lambda: nn.Linear(16, 4)), (32,)),
}


@pytest.mark.parametrize("name", with_slow(NETWORKS, ["clamp", "transformer"]))
def test_every_linear_layer_is_one_kernel_and_the_outputs_agree(name: str) -> None:
    make, shape = NETWORKS[name]
    net, x = make(), samples(16, *shape)
    found = quantize(net, x, **GROUPS)
    model = found.onnx(opset=21)
    layers = {layer.name: layer for layer in read_kernels(model, found.placement.reasons).layers}
    for path in (n for n, m in net.named_modules() if isinstance(m, nn.Linear)):
        assert (layers[path].kernel, layers[path].bits) == ("MatMulNBits", "w4a16"), path
        assert "w4a16" in layers[path].reason and layers[path].weight_scales

    fake, converted = (found.outputs(graph)[0] for graph in (found.fake, found.converted))
    assert torch.equal(fake, converted)
    (plain,) = run_onnx(model, found.spec, x, optimise=False)
    assert torch.allclose(torch.from_numpy(plain), converted, atol=1e-5)
    # The fused kernel rounds its input to int8, block by block.
    (fused,) = run_onnx(model, found.spec, x)
    assert cosine(fused, converted) > 0.999


def test_weights_are_stored_as_int4_in_an_eighth_of_the_size() -> None:
    net = stack(lambda: nn.Linear(256, 512), nn.ReLU, lambda: nn.Linear(512, 128))
    x = samples(4, 256)
    low = onnx.load_from_string(quantize(net, x, **GROUPS).onnx(opset=21))
    stored = {t.name: t for t in low.graph.initializer}
    for name, shape in {"0.weight_codes": [256, 512], "2.weight_codes": [512, 128]}.items():
        assert stored[name].data_type == TensorProto.INT4
        assert list(stored[name].dims) == shape
        assert len(stored[name].raw_data) == shape[0] * shape[1] // 2
    weights = sum(p.numel() * 4 for p in net.parameters() if p.ndim > 1)
    groups = {**GROUPS, "group_size": 256}
    size = len(quantize(net, x, **groups).onnx(opset=21))
    assert size < weights / 7.0


def test_a_layer_by_name_among_eight_bits() -> None:
    net, inputs = network("transformer")
    entry = {"match": "up", "bits": "w4a16"}
    found = quantize(net, *inputs, group_size=16, layers=[entry])
    layers = {layer.name: layer for layer in read_kernels(found.onnx(opset=21)).layers}
    assert layers["up"].bits == "w4a16" and layers["up"].kernel == "MatMulNBits"
    assert {layers[n].bits for n in ("qkv", "out", "down", "head")} == {"w8a8"}
