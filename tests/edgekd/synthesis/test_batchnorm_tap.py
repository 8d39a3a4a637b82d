"""What the batch norms of a program see, against hooks on the module itself."""

import pytest
import torch
from networks import NETWORKS, build, network, samples, trace
from torch import Tensor, nn

from edgekd.algorithms.statistics_loss import Statistics, channel_statistics, deviation
from edgekd.graph.batchnorm import batch_norms
from edgekd.synthesis.batchnorm_tap import tap_batch_norms


@pytest.mark.parametrize("name", ["chain", "resnet", "mobile", "concat", "signal"])
def test_the_tap_sees_what_hooks_see(name: str) -> None:
    net, inputs = network(name)
    layers: list[nn.Module] = []
    hooked: list[Statistics] = []

    def note(layer: nn.Module, arguments: tuple[Tensor]) -> None:
        layers.append(layer)
        hooked.append(channel_statistics(arguments[0]))

    norms = [m for m in net.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]
    handles = [norm.register_forward_pre_hook(note) for norm in norms]
    with torch.no_grad():
        net(*inputs)
    for handle in handles:
        handle.remove()
    graph, _ = trace(net, *(x[:2] for x in inputs))
    body, stored = tap_batch_norms(graph)
    with torch.no_grad():
        found = body(*inputs)
    assert len(found) == len(stored) == len(hooked) == len(batch_norms(graph))
    for (mean, std), (mean_0, std_0) in zip(found, hooked, strict=True):
        torch.testing.assert_close(mean, mean_0)
        torch.testing.assert_close(std, std_0)
    for (mean, std), layer in zip(stored, layers, strict=True):
        assert torch.equal(mean, layer.running_mean)
        assert torch.equal(std, deviation(layer.running_var))


def test_gradients_reach_the_input_and_nothing_else() -> None:
    graph, _ = trace(build(NETWORKS["resnet"][0]), samples(2, 3, 8, 8))
    body, _ = tap_batch_norms(graph)
    x = samples(4, 3, 8, 8).requires_grad_()
    torch.stack([mean.sum() + std.sum() for mean, std in body(x)]).sum().backward()
    assert x.grad is not None and float(x.grad.abs().sum()) > 0
    assert all(p.grad is None and not p.requires_grad for p in body.parameters())
    assert all(p.grad is None for p in graph.parameters())


def test_layers_behind_the_last_norm_are_left_out() -> None:
    graph, _ = trace(build(NETWORKS["chain"][0]), samples(2, 3, 8, 8))
    body, _ = tap_batch_norms(graph)
    assert not [n for n in body.graph.nodes if n.target is torch.ops.aten.linear.default]


def test_a_layer_norm_is_no_batch_norm() -> None:
    net, inputs = network("transformer", batch=2)
    assert batch_norms(trace(net, *inputs)[0]) == []
