import pytest
import torch
from networks import network, trace
from torch import nn

from edgekd.advice.untrained import untrained
from edgekd.graph.program import output_tensors


@pytest.mark.parametrize("name", ["resnet", "mobile", "transformer", "signal", "mlp"])
def test_a_seed_decides_and_nothing_learned_is_left(name: str) -> None:
    net, inputs = network(name)
    module, _ = trace(net, *inputs)
    before = output_tensors(module(*inputs))[0]
    first, again, other = (untrained(module, seed) for seed in (0, 0, 1))
    outputs = [output_tensors(copy(*inputs))[0] for copy in (first, again, other)]
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.allclose(outputs[0], outputs[2])
    assert outputs[0].isfinite().all()
    assert torch.equal(output_tensors(module(*inputs))[0], before)
    for key, weight in module.named_parameters():
        if weight.ndim > 1:
            assert not torch.allclose(first.get_parameter(key), weight), key


def test_norms_and_biases_do_nothing_and_weights_keep_the_variance() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 64, 3))
    with torch.no_grad():
        for tensor in (*net.parameters(), *net.buffers()):
            tensor.fill_(3)
    module, _ = trace(net.eval(), torch.randn(2, 3, 8, 8))
    copy = dict(untrained(module, 0).named_parameters())
    copy |= dict(untrained(module, 0).named_buffers())
    weight = copy["3.weight"]
    assert float(weight.detach().std()) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)
    constants = {"3.bias": 0, "1.weight": 1, "1.bias": 0, "1.running_mean": 0, "1.running_var": 1}
    for name, value in constants.items():
        assert (copy[name] == value).all(), name
