"""The heads of early exits: small networks from a tensor in the middle to class logits.

A head returns ``(logits, features)``: float32 ``(N, classes)``, and what they are computed from, in
the shape that the model's last tensor between two blocks has where that can be had.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

Kind = Literal["linear", "conv", "local", "attention"]
Answer = tuple[Tensor, Tensor]


class LinearHead(nn.Module):
    """A layer on the mean over all places of ``(N, C, ...)``, or over ``tokens`` ``(N, T, C)``."""

    kind: Kind = "linear"

    def __init__(self, width: int, classes: int, *, tokens: bool = False):
        super().__init__()
        self.tokens = tokens
        self.norm = nn.LayerNorm(width) if tokens else nn.Identity()
        self.linear = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Answer:
        """Return logits and the input."""
        if self.tokens:
            x = self.norm(x)
            return self.linear(x.mean(1)), x
        pooled = x.mean(tuple(range(2, x.ndim))) if x.ndim > 2 else x
        return self.linear(pooled), x


class ConvHead(nn.Module):
    """Convolutions from ``(N, C, H, W)`` to the size of the model's last feature map, and a layer.

    The first convolution takes the stride that this needs, and each further one halves the
    resolution again, to two places at least; all have a batch norm and a ReLU. So are the
    classifiers of MSDNet (Huang et al., ICLR 2018, arXiv 1703.09844, section 4). SDN (Kaya et al.,
    ICML 2019, section 3) pools instead, which costs less and is worse where features are shallow.
    """

    kind: Kind = "conv"

    def __init__(
        self, width: int, last: tuple[int, int, int], classes: int, *, stride: int, convs: int
    ):
        super().__init__()
        out_width = last[0]
        layers: list[nn.Module] = []
        for index, (inputs, _, step) in enumerate(head_convs(width, last, convs)):
            first = index == 0
            layers += [
                nn.Conv2d(inputs, out_width, 3, stride if first else step, padding=1, bias=False),
                nn.BatchNorm2d(out_width),
                nn.ReLU(),
            ]
        self.first, self.rest = nn.Sequential(*layers[:3]), nn.Sequential(*layers[3:])
        self.linear = nn.Linear(out_width, classes)

    def forward(self, x: Tensor) -> Answer:
        """Return logits and the feature map of the size of the model's last one."""
        features = self.first(x)
        return self.linear(self.rest(features).mean((2, 3))), features


def head_convs(
    width: int, last: tuple[int, int, int], convs: int
) -> list[tuple[int, tuple[int, int], int]]:
    """Return (input channels, size of the output, stride) of the convolutions of a ``ConvHead``.

    The stride of the first is not known here, since it leads to the size of ``last``.
    """
    out_width, height, length = last
    found = [(width, (height, length), 1)]
    for _ in range(convs - 1):
        step = 2 if min(height, length) > 2 else 1
        height, length = -(-height // step), -(-length // step)
        found.append((out_width, (height, length), step))
    return found


class LocalHead(nn.Module):
    """LGViT's local perception head for ``(N, prefix + H * W, C)``: convolutions on the token grid.

    1x1, depthwise 3x3 and 1x1 convolution, each with a batch norm, around a shortcut, without
    expansion; then the mean over tokens, the first prefix token added if there is one, and a layer.
    A LayerNorm stands in front, which the released code does not have: hidden states of a
    pre-norm transformer grow with depth. Batch norms stand before the GELUs and not behind, so that
    they fold into the convolutions. Source: Xu et al., "LGViT", ACM MM 2023, arXiv
    2308.00255, section 3.2.
    """

    kind: Kind = "local"

    def __init__(self, width: int, grid: tuple[int, int], prefix: int, classes: int):
        super().__init__()
        self.grid, self.prefix = grid, prefix
        self.norm = nn.LayerNorm(width)
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 1),
            nn.BatchNorm2d(width),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1, groups=width),
            nn.BatchNorm2d(width),
            nn.GELU(),
            nn.Conv2d(width, width, 1),
            nn.BatchNorm2d(width),
        )
        self.linear = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Answer:
        """Return logits and all tokens of the grid, ``(N, H * W, C)``."""
        x = self.norm(x)
        patches = x[:, self.prefix :].transpose(1, 2)
        grid = patches.reshape(-1, patches.shape[1], *self.grid)
        found = (grid + self.body(grid)).flatten(2).transpose(1, 2)
        return self.linear(_with_class_token(found.mean(1), x, self.prefix)), found


class AttentionHead(nn.Module):
    """LGViT's global aggregation head for ``(N, prefix + H * W, C)``: attention of some tokens.

    Every ``stride``-th row and column of the grid attends to the others of these; then as in
    ``LocalHead``. No shortcut, no bias of queries, keys and values. Source: as there.
    """

    kind: Kind = "attention"

    def __init__(
        self,
        width: int,
        grid: tuple[int, int],
        prefix: int,
        classes: int,
        *,
        stride: int,
        heads: int,
    ):
        super().__init__()
        self.grid, self.prefix, self.stride, self.heads = grid, prefix, stride, heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.project = nn.Linear(width, width)
        self.linear = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Answer:
        """Return logits and the tokens that attended, ``(N, t, C)``."""
        x = self.norm(x)
        width = x.shape[2]
        grid = x[:, self.prefix :].reshape(-1, *self.grid, width)
        chosen = grid[:, :: self.stride, :: self.stride]
        count = math.prod(-(-size // self.stride) for size in self.grid)
        parts = self.qkv(chosen.reshape(-1, count, width))
        parts = parts.reshape(-1, count, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        found = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        found = self.project(found.transpose(1, 2).reshape(-1, count, width))
        return self.linear(_with_class_token(found.mean(1), x, self.prefix)), found


def _with_class_token(pooled: Tensor, x: Tensor, prefix: int) -> Tensor:
    return pooled + x[:, 0] if prefix else pooled


def token_grid(count: int) -> tuple[tuple[int, int], int] | None:
    """Return (grid, prefix) of so many tokens: a square behind 0, 1 or 2 others, else None.

    One token in front is a class token, two are those of class and distillation (DeiT).
    """
    for prefix in (0, 1, 2):
        side = math.isqrt(max(0, count - prefix))
        if side > 1 and side * side == count - prefix:
            return (side, side), prefix
    return None
