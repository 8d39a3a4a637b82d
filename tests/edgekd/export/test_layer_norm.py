"""LayerNorm taken apart computes the same, at the opset of TensorRT 8.5."""

import numpy as np
import onnx
import pytest
from networks import network, nodes_of, quantize, quantized, run_onnx, samples, trace
from torch import Tensor, nn

from edgekd.export.layer_norm import decompose_layer_norms, has_decomposed_layer_norm
from edgekd.export.onnx import export_onnx
from edgekd.export.tensorrt_rules import check_tensorrt
from edgekd.export.tensorrt_rules.operators import unknown_to_oldest


class Norm(nn.Module):
    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


@pytest.mark.parametrize("opset", [17, 20])
@pytest.mark.parametrize(
    ("shape", "bias", "affine", "eps"),
    [((8,), True, True, 1e-5), ((8,), False, True, 1e-3), ((5, 8), True, False, 1e-12)],
)
def test_the_parts_compute_the_norm(
    shape: tuple[int, ...], bias: bool, affine: bool, eps: float, opset: int
) -> None:
    norm = nn.LayerNorm(shape, eps, elementwise_affine=affine, bias=bias)
    if affine:
        nn.init.normal_(norm.weight)
    x = 3 + 2 * samples(4, 5, 8)
    module, spec = trace(Norm(norm), x)
    model = export_onnx(module, (x,), spec, opset=opset, layer_norm="decomposed")
    assert not nodes_of(model, "LayerNormalization") and has_decomposed_layer_norm(model)
    np.testing.assert_allclose(
        run_onnx(model, spec, x)[0], norm(x).detach().numpy(), rtol=1e-4, atol=1e-5
    )


def test_a_transformer_loads_in_tensorrt_8_5() -> None:
    found = quantized("transformer", "tensorrt")
    inputs = found.inputs
    example = tuple(x[:2] for x in inputs)
    model = export_onnx(found.converted, example, found.spec, opset=17, layer_norm="decomposed")
    assert unknown_to_oldest(model, 17) == () and check_tensorrt(model) == ()
    whole = run_onnx(found.onnx(), found.spec, *inputs, optimise=False)[0]
    apart = run_onnx(model, found.spec, *inputs, optimise=False)[0]
    # A value on the edge of two codes may change sides: one step of one layer.
    assert np.mean(np.abs(whole - apart)) < 1e-3 * np.std(whole)


def test_a_model_without_one_stays_as_it_is() -> None:
    net, inputs = network("mlp")
    model = onnx.load_from_string(quantize(net, *inputs).onnx())
    before = model.SerializeToString(deterministic=True)
    decompose_layer_norms(model)
    assert model.SerializeToString(deterministic=True) == before
    assert not has_decomposed_layer_norm(before)
