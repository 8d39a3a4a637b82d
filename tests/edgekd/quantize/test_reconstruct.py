import numpy as np
import pytest
import torch
from marks import with_slow
from networks import NETWORKS, Quantized, build, clone, network, quantize, samples
from torch import Tensor, nn

from edgekd.quantize import onnxruntime
from edgekd.quantize.convert import convert
from edgekd.quantize.fake import WeightQuantizer
from edgekd.quantize.reconstruct import learn_rounding
from edgekd.quantize.soft_rounding import SoftRounding


def weight_quantizers(module) -> dict[str, WeightQuantizer]:
    return {n: m for n, m in module.named_modules() if isinstance(m, WeightQuantizer)}


def four_bits(found: Quantized) -> Quantized:
    """Give every learnable weight 15 levels, where rounding matters."""
    with torch.no_grad():
        for quantizer in weight_quantizers(found.fake).values():
            if quantizer.learnable:
                quantizer.log_scale += torch.tensor(quantizer.qmax / 7).log()
                quantizer.qmin, quantizer.qmax = -7, 7
    return found


def learn(found: Quantized, batches, steps: int) -> tuple:
    fake = clone(found.fake)
    with torch.no_grad():
        batches = list(batches)
    order = np.random.default_rng(0)
    return fake, learn_rounding(found.graph, fake, batches, steps, order, lambda _: None)


def linear(inputs: Tensor) -> Quantized:
    net = nn.Linear(inputs.shape[1], 6)
    with torch.no_grad():
        net.weight.copy_(samples(*net.weight.shape, seed=5))
    found = four_bits(quantize(nn.Sequential(net).eval(), inputs))
    for name, module in list(found.fake.named_modules()):
        if name.endswith("_quantizer") and not isinstance(module, WeightQuantizer):
            module.log_scale.data -= 8  # so fine that inputs are as good as not quantized
            module.qmin, module.qmax, module.zero_point = -(2**20), 2**20, 0
    return found


def nearest(found: Quantized) -> Tensor:
    (quantizer,) = weight_quantizers(found.fake).values()
    return quantizer.codes(dict(found.fake.named_parameters())["0.weight"])


def learned(found: Quantized, inputs: Tensor, steps: int = 400) -> tuple[Tensor, tuple]:
    fake, errors = learn(found, [(b,) for b in inputs.split(32)], steps)
    (quantizer,) = weight_quantizers(fake).values()
    return quantizer.codes(dict(fake.named_parameters())["0.weight"]), errors[0]


def test_on_independent_inputs_learning_finds_nearest_rounding() -> None:
    inputs = torch.eye(16)
    found = linear(inputs)
    codes, (before, after) = learned(found, inputs)
    assert torch.equal(codes, nearest(found)) and after == pytest.approx(before)


def test_on_correlated_inputs_learning_beats_nearest_rounding() -> None:
    inputs = samples(256, 2) @ samples(2, 16, seed=1) + 0.1 * samples(256, 16, seed=2)
    found = linear(inputs)
    codes, (before, after) = learned(found, inputs)
    assert after < 0.6 * before
    moved = (codes.int() - nearest(found).int()).abs()
    assert moved.max() == 1  # each weight goes up or down, never further


@pytest.mark.parametrize(
    "name", with_slow(NETWORKS, NETWORKS.keys() - {"resnet", "transformer", "two_inputs"})
)
def test_no_block_gets_worse_and_codes_survive_conversion(name: str) -> None:
    net, inputs = network(name)
    found = quantize(net, *inputs)
    fake, errors = learn(found, [inputs], 10)
    assert errors and all(after <= before for before, after in errors)
    stored = dict(fake.named_parameters())
    converted = clone(fake)
    convert(converted, onnxruntime.SCHEME)
    buffers = dict(converted.named_buffers())
    for node in fake.graph.nodes:
        if str(node.target) in weight_quantizers(fake):
            target = str(node.args[0].target)
            weight = stored[target] if target in stored else fake.get_buffer(target)
            scale = fake.get_submodule(str(node.target)).scale()
            on_grid = buffers[f"{target}_codes"] * scale
            distance = (on_grid - weight).abs() / scale
            assert float(distance.detach().max()) <= 0.5001


def test_learned_weights_lie_on_their_codes() -> None:
    net, inputs = network("resnet")
    fake, errors = learn(four_bits(quantize(net, *inputs)), [inputs], 60)
    assert any(after < before for before, after in errors)
    quantizer = fake.get_submodule("conv2d_weight_quantizer")
    weight = dict(fake.named_parameters())["stem.0.weight"].detach()
    assert isinstance(quantizer, WeightQuantizer)
    assert torch.allclose(quantizer.codes(weight) * quantizer.scale(), weight, atol=1e-6)
    assert quantizer.codes(weight).abs().max() <= 7


def test_hardening_decides_exactly_and_can_be_taken_back() -> None:
    weight = nn.Parameter(samples(8, 30))
    before, quantizer = weight.detach().clone(), WeightQuantizer(weight)
    soft = SoftRounding(quantizer, weight)
    soft.logits.data = samples(8, 30, seed=3)
    codes = soft.codes()
    undo = soft.harden()
    assert torch.equal(quantizer.codes(weight).float(), codes)
    undo()
    assert torch.equal(weight, before)


def test_the_same_order_gives_the_same_weights() -> None:
    net, inputs = network("chain")
    found = four_bits(quantize(net, *inputs))
    first, second = (learn(found, [inputs], 20)[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_shared_weight_keeps_its_rounding() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.relu(self.a(torch.relu(self.a(x)))))

    found = four_bits(quantize(build(Twice), samples(32, 4)))
    fake, _ = learn(found, [found.inputs], 60)
    before, after = (dict(graph.named_parameters()) for graph in (found.fake, fake))
    shared = next(name for name in before if name.startswith("a.") and "weight" in name)
    assert torch.equal(before[shared], after[shared])


def test_a_weight_of_zero_is_not_rounded_up() -> None:
    weight = samples(6, 20)
    weight[:, ::2] = 0
    quantizer = WeightQuantizer(weight)
    soft = SoftRounding(quantizer, weight)
    with torch.no_grad():
        soft.logits.fill_(5.0)  # up, everywhere

    assert (soft(weight)[:, ::2] == 0).all() and (soft.codes()[:, 1::2] != 0).any()
    soft.harden()
    assert (weight[:, ::2] == 0).all() and (quantizer.codes(weight)[:, ::2] == 0).all()
