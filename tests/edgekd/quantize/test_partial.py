"""Programs with a part of their layers quantized, on the test networks and for both runtimes."""

from dataclasses import replace

import pytest
import torch
from marks import with_slow
from networks import NETWORKS, RULES, Quantized, clone, network, quantize, samples

from edgekd.graph.tensors import layer_name
from edgekd.quantize.bias_correction import correct_biases
from edgekd.quantize.calibrate import calibrate
from edgekd.quantize.fake import WeightQuantizer
from edgekd.quantize.partial import QuantizedProgram
from edgekd.quantize.prepare import prepare

CASES = [
    *(f"{name} onnxruntime" for name in NETWORKS),
    *(f"{name} tensorrt" for name in ("resnet", "mobile", "transformer")),
]
SLOW = [
    *(f"{name} onnxruntime" for name in ("chain", "mobile", "transformer", "hardswish", "mlp")),
    *(f"{name} tensorrt" for name in ("resnet", "mobile")),
]


def program_of(found: Quantized, runtime: str) -> QuantizedProgram:
    rules = RULES[runtime]
    names = [tensor.node for tensor in found.placement.tensors]
    ranges = calibrate(found.graph, names, lambda: [found.inputs], found.scheme, "minmax")
    return QuantizedProgram(
        found.graph,
        found.fake,
        rules.place,
        lambda module, placement: prepare(module, placement, found.scheme, ranges),
    )


def weight_quantizers(module: torch.fx.GraphModule) -> set[str]:
    return {name for name, m in module.named_modules() if isinstance(m, WeightQuantizer)}


@pytest.fixture(scope="module", params=with_slow(CASES, SLOW))
def case(request: pytest.FixtureRequest) -> tuple[Quantized, QuantizedProgram]:
    """A network whose weights and steps were changed behind ``prepare``, as training does it."""
    name, runtime = request.param.split()
    net, inputs = network(name)
    found = quantize(net, *inputs, runtime=runtime)
    with torch.no_grad():
        for seed, parameter in enumerate(found.fake.parameters()):
            if parameter.requires_grad:
                parameter.add_(0.01 * samples(*parameter.shape, seed=seed))
        for seed, quantizer in enumerate(found.quantizers):
            if quantizer.learnable:
                quantizer.log_scale += 0.05 * samples(*quantizer.log_scale.shape, seed=seed)
    return found, program_of(found, runtime)


def test_zeros_of_the_trained_program_stay_in_layers_that_go_back_to_float(
    case: tuple[Quantized, QuantizedProgram],
) -> None:
    _, program = case
    trained = clone(program.trained)
    with torch.no_grad():
        for weight in trained.parameters():
            if weight.requires_grad and weight.ndim > 1:
                weight[:, ::2] = 0
    program = replace(program, trained=trained)

    module, _ = program.without(dict.fromkeys(program.layers(), "a test"))

    expected = {n: w for n, w in trained.named_parameters() if w.requires_grad and w.ndim > 1}
    assert expected
    for name, weight in module.named_parameters():
        assert name not in expected or torch.equal(weight, expected[name])


def test_with_no_layer_in_float_it_is_the_trained_program(
    case: tuple[Quantized, QuantizedProgram],
) -> None:
    found, program = case
    module, placement = program.without({})
    assert placement == found.placement
    for a, b in zip(found.outputs(found.fake), found.outputs(module), strict=True):
        assert torch.equal(a, b)


def test_with_all_layers_in_float_it_is_the_trained_network_in_float(
    case: tuple[Quantized, QuantizedProgram],
) -> None:
    found, program = case
    module, placement = program.without(dict.fromkeys(program.layers(), "all"))
    assert not placement.weights and not weight_quantizers(module)
    expected = clone(found.graph)
    expected.load_state_dict(found.fake.state_dict(), strict=False)
    for a, b in zip(found.outputs(expected), found.outputs(program.alone(None)), strict=True):
        assert torch.equal(a, b)
    assert placement.reasons.keys() >= set(program.layers())


def test_every_layer_can_be_the_only_one_or_the_only_one_missing(
    case: tuple[Quantized, QuantizedProgram],
) -> None:
    found, program = case
    quantizer_of = {
        layer_name(node): f"{node.name}_weight_quantizer"
        for node in found.graph.graph.nodes
        if node.name in found.placement.weights
    }
    everything = weight_quantizers(found.fake)
    assert program.layers() == list(quantizer_of)
    for layer, quantizer in quantizer_of.items():
        assert weight_quantizers(program.alone(layer)) == {quantizer}
        module, placement = program.without({layer: "this one"})
        assert weight_quantizers(module) == everything - {quantizer}
        assert placement.reasons[layer] == "this one"
        assert all(torch.isfinite(output).all() for output in found.outputs(module))


def test_biases_that_bias_correction_added_are_taken_over() -> None:
    class NoBias(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = (torch.nn.Linear(8, 8, bias=False) for _ in range(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(torch.relu(self.a(x)))

    found = quantize(NoBias().eval(), samples(32, 8))
    program = program_of(found, "onnxruntime")
    assert correct_biases(found.graph, found.fake, lambda: [found.inputs]) == 2
    module, _ = program.without({})
    assert torch.equal(found.outputs(found.fake)[0], found.outputs(module)[0])
    corrected = found.outputs(program.alone(None))[0] - found.outputs(found.graph)[0]
    assert corrected.abs().max() > 0
    assert "a.bias" not in dict(found.graph.named_parameters())
