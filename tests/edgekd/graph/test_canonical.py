from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from networks import (
    IMAGE,
    NETWORKS,
    ResNet,
    build,
    conv_bn,
    network,
    operations,
    samples,
    trace,
)
from torch import Tensor, nn

from edgekd.graph.canonical import canonicalize

GONE = {
    "pad",
    "batch_norm",
    "dropout",
    "slice",
    "adaptive_avg_pool2d",
    "relu_",
    "add_",
    "hardtanh_",
}


class Lambda(nn.Module):
    """A function of convolutions ``a`` and ``b`` (both keep the size) and the input."""

    def __init__(self, function: Callable[..., Tensor], inputs: int = 3) -> None:
        super().__init__()
        self.function, self.a, self.b = function, conv_bn(inputs, 8), conv_bn(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def same_outputs(net: nn.Module, *shapes: tuple[int, ...]) -> list[str]:
    """Check the canonical form at batch 1, 2 and 5; return its operations."""
    x = [samples(5, *shape, seed=i) for i, shape in enumerate(shapes)]
    graph, _ = trace(net, *x)
    canonicalize(graph)
    for batch in (1, 2, 5):
        given = [tensor[:batch].clone() for tensor in x]
        with torch.no_grad():
            expected, found = net(*given), graph(*given)
        assert torch.allclose(found, expected, atol=2e-5), f"batch {batch}"
    return operations(graph)


@pytest.mark.parametrize("name", ["chain", "mobile", "transformer", "signal"])
def test_networks_keep_their_outputs(name: str) -> None:
    net, _ = network(name)
    assert not GONE & set(same_outputs(net, *NETWORKS[name][1]))


def test_residual_networks_become_convolutions_and_sums() -> None:
    for inplace in (False, True):
        found = same_outputs(build(lambda inplace=inplace: ResNet(inplace)), IMAGE)
        assert set(found) == {"conv2d", "relu", "add", "avg_pool2d", "flatten", "linear"}


def pad_channels(x: Tensor, before: int, after: int, value: float = 0.0) -> Tensor:
    return F.pad(x, (0, 0, 0, 0, before, after), "constant", value)


@pytest.mark.parametrize(
    ("stride", "padding"),
    [((1, 1), (2, 2)), ((2, 2), (2, 2)), ((2, 1), (0, 3)), ((3, 2), (5, 1))],
)
def test_padded_shortcuts(stride: tuple[int, int], padding: tuple[int, int]) -> None:
    net = build(
        lambda: Lambda(lambda s, x: pad_channels(x[:, :, :: stride[0], :: stride[1]], *padding))
    )
    assert same_outputs(net, (3, 9, 8)) == ["conv2d"]


@pytest.mark.parametrize(
    "function",
    [
        lambda s, x: pad_channels(x, 1, 1, value=1.0),
        lambda s, x: F.pad(x, (1, 1, 0, 0, 1, 1)),
        lambda s, x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
        lambda s, x: pad_channels(x[:, :, 1::2, ::2], 1, 1),
        lambda s, x: pad_channels(x[:, 1:], 1, 1),
        lambda s, x: pad_channels(x[:, :, :6], 1, 1),
        lambda s, x: F.pad(x, (0, 0, 0, 0, -1, 2)),
        lambda s, x: x[:, :, ::2, 1:],
    ],
)
def test_other_padding_and_slices_keep_their_meaning(function: Callable[..., Tensor]) -> None:
    same_outputs(build(lambda: Lambda(function)), IMAGE)


@pytest.mark.parametrize(
    "function",
    [
        lambda s, x: s.a(x).mean((2, 3)),
        lambda s, x: s.a(x).mean((-1, -2)),
        lambda s, x: s.a(x).mean((2, 3), keepdim=True),
        lambda s, x: F.adaptive_avg_pool2d(s.a(x), 1),
        lambda s, x: F.adaptive_avg_pool2d(s.a(x), (1, 1)).flatten(1),
        lambda s, x: F.avg_pool2d(s.a(x), 8),
    ],
)
def test_global_pooling_has_one_form(function: Callable[..., Tensor]) -> None:
    found = same_outputs(build(lambda: Lambda(function)), IMAGE)
    assert found[:2] == ["conv2d", "avg_pool2d"] and set(found[2:]) <= {"flatten"}


@pytest.mark.parametrize(
    "function",
    [
        lambda s, x: s.a(x).mean((1, 2)),
        lambda s, x: s.a(x).mean(1),
        lambda s, x: s.a(x).mean((1, 2, 3)),
        lambda s, x: F.adaptive_avg_pool2d(s.a(x), 2),
        lambda s, x: F.adaptive_avg_pool2d(s.a(x), (None, 1)),
        lambda s, x: F.avg_pool2d(s.a(x), 3, 2, 1),
    ],
)
def test_other_pooling_keeps_its_meaning(function: Callable[..., Tensor]) -> None:
    same_outputs(build(lambda: Lambda(function)), IMAGE)


def overwritten_later(s: Lambda, x: Tensor) -> Tensor:
    y = s.a(x)
    z = F.relu_(y)
    return s.b(z) + y  # y is relu(y) by now


def part_of_a_sum(s: Lambda, x: Tensor) -> Tensor:
    y = s.a(x)
    before = y * 2
    y += s.b(y)
    y.clamp_(0, 6)
    return before + y


def write_into_slice(s: Lambda, x: Tensor) -> Tensor:
    y = s.a(x)
    y[:, :2].add_(1.0)
    return s.b(y)


def assign_slice(s: Lambda, x: Tensor) -> Tensor:
    y = F.relu(s.a(x))
    y[:, 1:3] = 0.0
    return s.b(y)


def relu_of_a_view(s: Lambda, x: Tensor) -> Tensor:
    y = s.a(x)
    flat = y.view(y.size(0), -1)
    F.relu_(flat)
    return s.b(y)


def view_read_after(s: Lambda, x: Tensor) -> Tensor:
    y = s.a(x)
    flat = y.flatten(1)
    F.relu_(y)
    return flat


def unknown_write(s: Lambda, x: Tensor) -> Tensor:
    y = s.a(x)
    y.sub_(0.5)
    y.masked_fill_(y < 0, 0.25)
    return s.b(y)


WRITES = [
    overwritten_later,
    part_of_a_sum,
    write_into_slice,
    assign_slice,
    relu_of_a_view,
    view_read_after,
    unknown_write,
]


@pytest.mark.parametrize("function", WRITES, ids=lambda f: f.__name__)
def test_writing_in_place_is_seen_by_every_later_reader(function: Callable[..., Tensor]) -> None:
    found = same_outputs(build(lambda: Lambda(function)), IMAGE)
    assert not any(name.endswith("_") for name in found)
    assert "batch_norm" not in found


def channel_shuffle(s: Lambda, x: Tensor) -> Tensor:
    y = F.relu(s.a(x))
    y = y.view(y.size(0), 2, 4, 8, 8).transpose(1, 2).contiguous().view(y.size(0), 8, 8, 8)
    return s.b(y.clone())


def test_copies_disappear() -> None:
    found = same_outputs(build(lambda: Lambda(channel_shuffle)), IMAGE)
    assert not {"contiguous", "clone", "view"} & set(found)


@pytest.mark.parametrize("options", [{}, {"dilation": 2}, {"groups": 3}, {"kernel_size": (1, 5)}])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_named_padding_becomes_numbers(options: dict, padding: str) -> None:
    given = {"kernel_size": 3, "padding": padding, **options}
    net = build(lambda: nn.Sequential(nn.Conv2d(3, 6, **given), nn.BatchNorm2d(6)))
    assert same_outputs(net, IMAGE) == ["conv2d"]


def test_same_padding_of_an_even_kernel_keeps_its_meaning() -> None:
    same_outputs(build(lambda: nn.Conv2d(3, 6, 4, padding="same")), IMAGE)


def test_dropout_leaves_nothing_behind() -> None:
    net = build(lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.Dropout(0.5), nn.ReLU()))
    assert same_outputs(net, IMAGE) == ["conv2d", "relu"]


@pytest.mark.parametrize("inplace", [False, True])
def test_a_sum_with_a_factor_becomes_a_product_and_a_sum(inplace: bool) -> None:
    def weighted(net: Lambda, x: Tensor) -> Tensor:
        y, skip = net.a(x), F.relu(x)
        return y.add_(skip, alpha=-2) if inplace else torch.add(y, skip, alpha=-2)

    found = same_outputs(build(lambda: Lambda(weighted, 8)), (8, 4, 4))
    assert found.count("mul") == found.count("add") == 1
