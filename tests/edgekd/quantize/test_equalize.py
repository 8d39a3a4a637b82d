from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from networks import NETWORKS, build, canonical, clone, conv_bn, network, output_tensors, samples
from torch import Tensor, nn

from edgekd.algorithms.equalize import input_widths, output_widths
from edgekd.quantize.equalize import equalize, find_pairs


class Depthwise(nn.Module):
    """Pointwise, depthwise, pointwise with a given activation, channels of very uneven width."""

    def __init__(self, activation: Callable[[Tensor], Tensor] = F.relu) -> None:
        super().__init__()
        self.activation = activation
        self.expand, self.depth = conv_bn(3, 8, size=1), conv_bn(8, 8, groups=8)
        self.project, self.head = conv_bn(8, 6, size=1), nn.Linear(6, 3)
        with torch.no_grad():
            self.expand[0].weight *= torch.logspace(-2, 2, 8).reshape(-1, 1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.depth(self.activation(self.expand(x))))
        return self.head(F.relu(self.project(x)).mean((2, 3)))


def changed(before, after) -> set[str]:
    old = dict(before.named_parameters())
    return {name for name, p in after.named_parameters() if not torch.equal(p, old[name])}


def check_equal(net: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[int, set[str]]:
    graph = canonical(net, *inputs)
    equalized = clone(graph)
    count = equalize(equalized)
    with torch.no_grad():
        outputs = output_tensors(graph(*inputs)), output_tensors(equalized(*inputs))
    for a, b in zip(*outputs, strict=True):
        assert torch.allclose(a, b, atol=1e-5 * max(1, float(a.abs().max())))
    return count, changed(graph, equalized)


PAIRS = {"chain": 2, "resnet": 3, "mlp": 2, "signal": 1, "dense_output": 2, "concat": 0}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_float_network_computes_the_same(name: str) -> None:
    count, names = check_equal(*network(name))
    assert (count > 0) == bool(names)
    assert count == PAIRS.get(name, count)


@pytest.mark.parametrize("seed", range(3))
def test_depthwise_chains_are_equalized_from_end_to_end(seed: int) -> None:
    net, x = build(Depthwise, seed), samples(4, 3, 8, 8, seed=seed)
    count, names = check_equal(net, (x,))
    assert count == 2
    assert {"expand.0.weight", "depth.0.weight", "project.0.weight"} <= names

    graph = canonical(net, x)
    equalize(graph)
    for pair in find_pairs(graph):
        widths = output_widths(pair.first), input_widths(pair.second, pair.groups)
        assert torch.allclose(*widths, rtol=0.05)


@pytest.mark.parametrize("activation", [F.relu6, F.hardswish, torch.sigmoid])
def test_activations_that_do_not_scale_are_skipped(activation) -> None:
    net = build(lambda: Depthwise(activation))
    assert check_equal(net, (samples(4, 3, 8, 8),)) == (0, set())


def test_a_shared_weight_is_left_alone() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(F.relu(self.a(F.relu(self.a(x)))))

    assert check_equal(build(Twice), (samples(3, 4),)) == (0, set())
