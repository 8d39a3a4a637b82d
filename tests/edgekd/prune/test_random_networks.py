"""The property of the surgery on networks that are put together at random."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import build, samples, trace
from pruning import check, some_units
from torch import Tensor, nn

from edgekd.graph.float_form import float_form
from edgekd.prune.analysis import analyse
from edgekd.prune.surgery import mask_consumers, remove

ACTIVATIONS = {"relu": F.relu, "sigmoid": torch.sigmoid, "none": lambda x: x, "gelu": F.gelu}
LAYERS = (
    "conv", "depthwise", "grouped", "residual", "padded", "cat", "split", "excite", "shuffle",
    "group_norm", "pool", "up",
)  # fmt: skip
HEADS = ("mean", "flatten", "attention")


class Layer(nn.Module):
    """One layer of the grammar; its width after it is ``self.width``."""

    def __init__(self, kind: str, width: int, out: int, act: str, norm: bool) -> None:
        super().__init__()
        self.kind, self.act = kind, ACTIVATIONS[act]
        groups = {"depthwise": width, "grouped": 2}.get(kind, 1)
        keeps = kind in ("depthwise", "residual", "excite", "shuffle", "group_norm", "pool")
        made = width if keeps else out
        made = {"padded": width + out, "split": 2 * made, "up": made}.get(kind, made)
        self.conv = nn.Conv2d(width, made, 3, 1, 1, groups=groups, bias=not norm)
        self.norm: nn.Module = nn.BatchNorm2d(made) if norm else nn.Identity()
        if kind == "excite":
            self.down, self.open = nn.Linear(width, 3), nn.Linear(3, width)
        if kind == "group_norm":
            self.norm = nn.GroupNorm(width // 2, width)
        self.width = {"cat": width + out, "split": out}.get(kind, made)
        self.out = out

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self, f"_{self.kind}", self._conv)(x)

    def _made(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))

    def _conv(self, x: Tensor) -> Tensor:
        return self.act(self._made(x))

    def _pool(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 3, 1, 1)

    def _shuffle(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)

    def _excite(self, x: Tensor) -> Tensor:
        gate = self.open(self.act(self.down(x.mean((2, 3)))))
        return x * torch.sigmoid(gate)[:, :, None, None]

    def _residual(self, x: Tensor) -> Tensor:
        return self.act(x + self._made(x))

    def _padded(self, x: Tensor) -> Tensor:
        channels = (self.out // 2, self.out - self.out // 2)
        return self.act(self._made(x) + F.pad(x, (0, 0, 0, 0, *channels)))

    def _cat(self, x: Tensor) -> Tensor:
        return torch.cat([self._conv(x), x], 1)

    def _split(self, x: Tensor) -> Tensor:
        a, b = self._made(x).split(self.width, 1)
        return self.act(a) * b

    def _up(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(F.interpolate(self._conv(x), scale_factor=2.0), 2)


class Network(nn.Module):
    def __init__(self, layers: list[tuple[str, int, str, bool]], head: str) -> None:
        super().__init__()
        self.stem, width = nn.Conv2d(2, 4, 1), 4
        self.layers = nn.ModuleList()
        for kind, out, act, norm in layers:
            self.layers.append(Layer(kind, width, 2 * out, act, norm))
            width = self.layers[-1].width
        self.kind = head
        if head == "attention":
            self.qkv, self.project = nn.Linear(width, 3 * 8), nn.Linear(8, 6)
        self.head = nn.Linear({"mean": width, "flatten": width * 16, "attention": 6}[head], 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.stem(x))
        for layer in self.layers:
            x = layer(x)
        if self.kind == "mean":
            return self.head(x.mean((2, 3)))
        if self.kind == "flatten":
            return self.head(x.flatten(1))
        q, k, v = self.qkv(x.flatten(2).mT).view(-1, 16, 3, 4, 2).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.head(self.project(y).mean(1))


LAYER = st.tuples(
    st.sampled_from(LAYERS), st.integers(1, 3), st.sampled_from(list(ACTIVATIONS)), st.booleans()
)


NETWORK = given(
    st.lists(LAYER, min_size=1, max_size=4), st.sampled_from(HEADS), st.integers(0, 2**16)
)


def cut_somewhere(layers: list[Any], head: str, seed: int) -> None:
    net = build(lambda: Network(layers, head), seed)
    example, batch = samples(2, 2, 4, 4), samples(5, 2, 4, 4, seed=1)
    graph, _ = trace(net, example)
    form = float_form(graph, (example,))
    analysis = analyse(form, (example,))
    assert all(entry.followed for entry in analysis.dependencies.locked)
    removed = some_units(analysis.dependencies, random.Random(seed).randrange(99), least=0)
    smaller = remove(form, analysis, removed, (example,))
    check(smaller, mask_consumers(form, analysis.dependencies, removed), batch)


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@NETWORK
def test_any_network_can_be_cut(layers: list[Any], head: str, seed: int) -> None:
    cut_somewhere(layers, head, seed)


@pytest.mark.slow
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@NETWORK
def test_many_networks_can_be_cut(layers: list[Any], head: str, seed: int) -> None:
    cut_somewhere(layers, head, seed)
