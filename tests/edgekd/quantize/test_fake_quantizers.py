import pytest
import torch
from networks import Quantized, clone, network, quantize, samples

from edgekd.quantize.convert import convert
from edgekd.quantize.fake import Quantizer, WeightQuantizer
from edgekd.quantize.onnxruntime import SCHEME


def test_weights_have_one_step_per_output_channel() -> None:
    weight = samples(5, 3, 2, 2) * torch.arange(1, 6).reshape(5, 1, 1, 1)
    quantizer = WeightQuantizer(weight)
    assert quantizer.scale().shape == (5, 1, 1, 1)
    codes = quantizer.codes(weight)
    assert codes.dtype == torch.int8
    assert codes.flatten(1).abs().amax(1).tolist() == [127] * 5
    assert torch.allclose(codes * quantizer.scale(), quantizer(weight), atol=1e-6)
    assert ((quantizer(weight) - weight).abs() <= 0.501 * quantizer.scale()).all()


@pytest.mark.parametrize("weight", [torch.zeros(3, 2), torch.full((3, 2), 1e-38)])
def test_weights_of_zero_are_exact(weight: torch.Tensor) -> None:
    quantizer = WeightQuantizer(weight)
    assert torch.isfinite(quantizer.log_scale).all()
    assert torch.equal(quantizer(weight), torch.zeros_like(weight))


def test_learning_a_step_changes_its_gradient_and_not_its_value() -> None:
    x = samples(100)
    fixed, learned = (Quantizer(torch.tensor([0.05]), 128, 0, 255) for _ in range(2))
    learned.log_scale.requires_grad_()
    assert torch.allclose(fixed(x), learned(x), atol=1e-6)
    learned(x).square().sum().backward()
    assert learned.log_scale.grad is not None and torch.isfinite(learned.log_scale.grad).all()


@pytest.fixture(scope="module")
def trained() -> Quantized:
    """A network with steps that training has moved apart."""
    net, inputs = network("resnet")
    found = quantize(net, *inputs)
    with torch.no_grad():
        for seed, quantizer in enumerate(found.quantizers):
            if quantizer.learnable:
                quantizer.log_scale += 0.1 * samples(*quantizer.log_scale.shape, seed=seed)
    return found


def test_conversion_follows_trained_steps(trained: Quantized) -> None:
    converted = clone(trained.fake)
    convert(converted, SCHEME)
    fake, real = trained.outputs(trained.fake)[0], trained.outputs(converted)[0]
    assert float((fake - real).abs().max()) < 0.01 * float(fake.abs().max())
    assert not [m for m in converted.modules() if isinstance(m, Quantizer)]


def test_a_shortcut_that_selects_channels_is_exact_and_shares_its_inputs_step(
    trained: Quantized,
) -> None:
    fixed = [q for q in trained.quantizers if not q.learnable]
    assert len(fixed) == 2
    for quantizer in fixed:
        assert isinstance(quantizer, WeightQuantizer)
    used = [str(n.target) for n in trained.fake.graph.nodes if n.op == "call_module"]
    assert len(used) > len(set(used))  # one quantizer, called on both sides of the shortcut


def test_weights_stay_trainable_below_the_quantizers(trained: Quantized) -> None:
    names = {name for name, p in trained.fake.named_parameters() if p.requires_grad}
    assert "stem.0.weight" in names and "head.bias" in names
    assert not any("quantizer" in name or "selection" in name for name in names)
    trained.fake(*trained.inputs).sum().backward()
    for name, parameter in trained.fake.named_parameters():
        assert (parameter.grad is not None) == (name in names)
