import pytest
import torch
from marks import with_slow
from networks import Quantized, clone, network, quantize
from torch import Tensor, fx

from edgekd.quantize.bias_correction import _Means, _own_biases, correct_biases
from edgekd.quantize.fake import WeightQuantizer


def coarse(name: str) -> Quantized:
    """Return a network with weights of about 4 bits, so that there is something to correct."""
    net, inputs = network(name)
    found = quantize(net, *inputs)
    with torch.no_grad():
        for quantizer in found.quantizers:
            if isinstance(quantizer, WeightQuantizer) and quantizer.learnable:
                quantizer.log_scale += torch.tensor(16.0).log()
    return found


@torch.no_grad()
def shifts(found: Quantized, module: fx.GraphModule) -> dict[str, Tensor]:
    """Return the relative shift of the mean of every quantized layer's output."""
    names = list(_own_biases(clone(found.fake)))
    real, quantized = _Means(found.graph, names), _Means(module, names)
    real.run(*found.inputs), quantized.run(*found.inputs)
    pairs = {name: (real.found[name], quantized.found[name]) for name in names}
    return {name: (a - b).norm() / a.norm() for name, (a, b) in pairs.items()}


@pytest.mark.parametrize(
    "name",
    with_slow(["chain", "resnet", "mobile", "mlp", "signal", "two_inputs"], ["chain", "mobile"]),
)
def test_no_layers_mean_is_shifted_after_correction(name: str) -> None:
    found = coarse(name)
    corrected = clone(found.fake)
    count = correct_biases(found.graph, corrected, lambda: [found.inputs])
    before, after = shifts(found, found.fake), shifts(found, corrected)
    assert count == len(after) == len(found.placement.weights) - 2 * (name == "resnet")
    assert max(before.values()) > 0.01
    assert max(after.values()) < 1e-4


def test_batches_count_by_their_size() -> None:
    found = coarse("resnet")
    corrected = clone(found.fake)
    (x,) = found.inputs
    correct_biases(found.graph, corrected, lambda: [(x[:5],), (x[5:12],), (x[12:],)])
    before, after = shifts(found, found.fake), shifts(found, corrected)
    first = next(iter(after))
    assert after[first] < 1e-4  # nothing quantized before it but the input: exact
    assert sum(after.values()) < 0.2 * sum(before.values())


def test_layers_without_a_bias_and_layers_that_share_one_get_their_own() -> None:
    found = coarse("chain")
    fake = clone(found.fake)
    layers = [n for n in fake.graph.nodes if n.name in found.placement.weights]
    shared = layers[0].args[2]
    layers[1].args = (*layers[1].args[:2], shared, *layers[1].args[3:])
    layers[2].args = layers[2].args[:2]
    biases = _own_biases(fake)
    assert len({id(bias) for bias in biases.values()}) == len(layers)
    assert torch.equal(biases[layers[0].name], biases[layers[1].name])
    assert not biases[layers[2].name].any()
    fake.graph.lint()
    correct_biases(found.graph, fake, lambda: [found.inputs])
    assert max(shifts(found, fake).values()) < 1e-4
