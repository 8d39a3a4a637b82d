import pytest
import torch
import torch.nn.functional as F
from networks import build, canonical, operations, randomize, samples, trace
from torch import Tensor, nn

from edgekd.graph.batchnorm import fold_batch_norm
from edgekd.graph.tensors import clean


def check_folded(net: nn.Module, *x: Tensor, folded: int) -> None:
    graph, _ = trace(net, *x)
    with torch.no_grad():
        expected = net(*x)
    assert fold_batch_norm(graph) == folded
    with torch.no_grad():
        assert torch.allclose(graph(*x), expected, atol=2e-5)
    assert ("batch_norm" not in operations(graph)) == (folded > 0)


LAYERS = {
    "conv2d": (lambda: nn.Conv2d(3, 6, 3, bias=False), lambda: nn.BatchNorm2d(6), (3, 8, 8)),
    "conv2d_bias": (lambda: nn.Conv2d(3, 6, 3), lambda: nn.BatchNorm2d(6), (3, 8, 8)),
    "grouped": (lambda: nn.Conv2d(4, 8, 3, groups=4), lambda: nn.BatchNorm2d(8), (4, 8, 8)),
    "no_affine": (
        lambda: nn.Conv2d(3, 6, 3),
        lambda: nn.BatchNorm2d(6, affine=False),
        (3, 8, 8),
    ),
    "eps": (lambda: nn.Conv2d(3, 6, 1), lambda: nn.BatchNorm2d(6, eps=0.1), (3, 4, 4)),
    "conv1d": (lambda: nn.Conv1d(2, 5, 3), lambda: nn.BatchNorm1d(5), (2, 9)),
    "conv3d": (lambda: nn.Conv3d(1, 3, 2), lambda: nn.BatchNorm3d(3), (1, 4, 4, 4)),
    "linear": (lambda: nn.Linear(7, 4), lambda: nn.BatchNorm1d(4), (7,)),
    "linear_no_bias": (lambda: nn.Linear(7, 4, bias=False), lambda: nn.BatchNorm1d(4), (7,)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_folding_keeps_the_output(name: str) -> None:
    layer, norm, shape = LAYERS[name]
    net = build(lambda: nn.Sequential(layer(), norm(), nn.ReLU()))
    check_folded(net, samples(4, *shape), folded=1)


def test_folded_tensors_can_be_trained_and_replace_the_old_ones() -> None:
    net = build(lambda: nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6)))
    graph, _ = trace(net, samples(2, 3, 8, 8))
    fold_batch_norm(graph)
    assert {name for name, _ in graph.named_parameters()} == {"0.weight", "0.bias"}
    assert not list(graph.named_buffers())


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.first, self.second = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.conv(F.relu(self.first(self.conv(x)))))


def test_a_weight_with_two_norms_is_left_alone() -> None:
    check_folded(build(Twice), samples(2, 4, 8, 8), folded=0)


class ReadTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.norm(y) + y


def test_a_layer_with_another_reader_is_left_alone() -> None:
    check_folded(build(ReadTwice), samples(2, 4, 8, 8), folded=0)


class TopLevelBias(nn.Module):
    """``self.bias`` is added after the norm, and is named as the folded bias would be."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.norm = nn.Parameter(samples(4, 3, 3, 3)), nn.BatchNorm2d(4)
        self.bias = nn.Parameter(samples(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(F.conv2d(x, self.weight)) + self.bias


class SharedBias(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
        self.b.bias = self.a.bias
        self.first, self.second = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(self.a(x)) * self.second(self.b(x))


@pytest.mark.parametrize(("make", "folded"), [(TopLevelBias, 1), (SharedBias, 2)])
def test_a_bias_that_others_read_keeps_its_value(make: type[nn.Module], folded: int) -> None:
    check_folded(build(make), samples(2, 3, 8, 8), folded=folded)


def test_a_norm_in_training_mode_is_not_folded() -> None:
    net = randomize(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    graph, _ = trace(net, samples(2, 3, 8, 8))
    (norm,) = [node for node in graph.graph.nodes if "batch_norm" in str(node.target)]
    norm.args = (*norm.args[:5], True, *norm.args[6:])
    clean(graph)
    assert fold_batch_norm(graph) == 0


def test_same_padding_does_not_hinder() -> None:
    net = build(lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding="same"), nn.BatchNorm2d(4)))
    assert operations(canonical(net, samples(2, 3, 8, 8))) == ["conv2d"]
