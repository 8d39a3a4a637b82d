"""Small versions of the networks of the benchmarks, from torch to the kernels that run."""

import itertools
from functools import cache

import numpy as np
import pytest
import torch
from marks import with_slow
from networks import Quantized, build, cosine, quantize, run_onnx, samples
from torch import Tensor, nn

from benchmarks.networks.encoder import TextEncoder
from benchmarks.networks.mobilenet import MobileNet
from benchmarks.networks.vit import VisionTransformer
from edgekd.export.kernels import KernelReport, read_kernels
from edgekd.export.tensorrt_rules import check_tensorrt

LAYERS, TOKENS, ROWS = 2, 16, 100
# The encoder is a transformer too. A network is slow in all tests, since they share it.
# A smaller depthwise network is in the quick tests of test_quantize_onnxruntime.py.
RUNTIMES = ("onnxruntime", "tensorrt")
SMALL = {"width": 32, "depth": LAYERS, "heads": 2, "hidden": 64}


def tokens(count: int = 16) -> tuple[Tensor, Tensor]:
    """Return (ids, mask) of sequences of 3 to TOKENS tokens."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(0, ROWS, (count, TOKENS), generator=draw)
    lengths = torch.randint(3, TOKENS + 1, (count, 1), generator=draw)
    return ids, (torch.arange(TOKENS) < lengths).long()


@cache
def network(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    if name == "encoder":
        net = build(lambda: TextEncoder(**SMALL, vocabulary=ROWS, tokens=TOKENS))
        return net, tokens()
    if name == "vit":
        return build(lambda: VisionTransformer(**SMALL, image=16)), (samples(16, 3, 16, 16),)
    return build(MobileNet), (samples(16, 3, 32, 32),)


@cache
def journey(name: str, runtime: str = "onnxruntime") -> tuple[Quantized, bytes]:
    net, inputs = network(name)
    found = quantize(net, *inputs, runtime=runtime)
    return found, found.onnx(20 if runtime == "onnxruntime" else 17)


@cache
def kernels(name: str) -> KernelReport:
    found, model = journey(name)
    return read_kernels(model, found.placement.reasons)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "runtime"), list(itertools.product(["encoder", "vit", "mobilenet"], RUNTIMES))
)
def test_outputs_stay_close_at_every_batch_size(name: str, runtime: str) -> None:
    net, inputs = network(name)
    found, model = journey(name, runtime)
    for batch in (1, 5):
        given = [x[:batch] for x in inputs]
        with torch.no_grad():
            expected = net(*given)
        (answer,) = run_onnx(model, found.spec, *given, optimise=runtime == "onnxruntime")
        assert answer.shape == expected.shape
        assert cosine(answer, expected) > 0.998


@pytest.mark.parametrize(
    ("name", "linears"),
    with_slow([("encoder", 6 * LAYERS), ("vit", 4 * LAYERS + 1)], [("vit", 4 * LAYERS + 1)]),
)
def test_transformers_run_the_kernels_that_measured_fastest(name: str, linears: int) -> None:
    operations = kernels(name).operations
    assert operations["QGemm"] == linears
    assert operations["Gelu"] == operations["Softmax"] == LAYERS
    assert operations["LayerNormalization"] == 2 * LAYERS + 1
    # Attention's products stay in float, the scale inside the first; no slower fused norm.
    assert operations["FusedMatMul"] == operations["MatMul"] == LAYERS
    assert not {"SkipLayerNormalization", "BiasGelu", "MatMulIntegerToFloat"} & set(operations)
    # Queries, keys and values read one tensor, quantized once.
    assert operations["QuantizeLinear"] == 4 * LAYERS + (2 if name == "vit" else 0)


@pytest.mark.slow
def test_a_depthwise_network_runs_on_integers() -> None:
    report = kernels("mobilenet")
    assert report.layers and all(layer.precision == "int8" for layer in report.layers)
    assert report.operations["QLinearConv"] == 31 and "Clip" not in report.operations


def test_what_is_masked_does_not_reach_the_embedding() -> None:
    found, model = journey("encoder")
    ids, mask = tokens()
    other = torch.where(mask == 1, ids, (ids + 17) % ROWS)
    assert not torch.equal(ids, other)
    (before,), (after,) = (run_onnx(model, found.spec, x, mask) for x in (ids, other))
    assert np.array_equal(before, after)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["encoder", "vit"])
def test_for_tensorrt_both_products_of_attention_are_quantized(name: str) -> None:
    found, model = journey(name, "tensorrt")
    assert check_tensorrt(model) == ()
    graph = found.fake.graph
    products = [n for n in graph.nodes if n.target is torch.ops.aten.matmul.default]
    assert len(products) == 2 * LAYERS
    for product in products:
        assert all(operand.op == "call_module" for operand in product.args)
    probabilities = [n for n in graph.nodes if n.meta.get("quantizes", "").startswith("softmax")]
    assert len(probabilities) == LAYERS
    for node in probabilities:
        scale = found.fake.get_submodule(str(node.target)).scale()
        assert float(scale) == pytest.approx(1 / 127)
