"""Small networks with the structures that pruning has to understand."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from networks import NETWORKS, conv_bn
from torch import Tensor, nn

from benchmarks.networks.encoder import TextEncoder
from benchmarks.networks.mobilenet import InvertedResidual
from benchmarks.networks.vit import VisionTransformer
from edgekd.demo import DigitNet

TOKENS, WIDTH = 5, 12


class ZeroCat(nn.Module):
    """A shortcut that is padded with zeros by concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.head = conv_bn(3, 4), conv_bn(4, 10), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        n, _, h, w = x.shape
        zeros = torch.zeros(n, 6, h, w)
        return self.head(F.relu(self.a(x) + torch.cat([x, zeros], 1)).mean((2, 3)))


class Dense(nn.Module):
    """Every layer reads all that came before."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(conv_bn(4 + 3 * i, 3) for i in range(3))
        self.stem, self.head = conv_bn(3, 4), nn.Linear(13, 5)

    def forward(self, x: Tensor) -> Tensor:
        found = [torch.sigmoid(self.stem(x))]
        for layer in self.layers:
            found.append(F.relu(layer(torch.cat(found, 1))))
        return self.head(F.adaptive_avg_pool2d(torch.cat(found, 1), 1).flatten(1))


class Inception(nn.Module):
    """Branches of several kernels and a pooled one, then a hidden layer on the flat image."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv_bn(3, 4, size=1), conv_bn(3, 5), conv_bn(3, 3, size=1)
        self.hidden, self.head = nn.Linear(12 * 16, 9), nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.c(F.max_pool2d(x, 3, 1, 1))
        x = F.avg_pool2d(torch.cat([self.a(x).relu(), self.b(x).sigmoid(), pooled], 1), 2)
        return self.head(F.gelu(self.hidden(torch.flatten(x, 1))))


class SqueezeExcite(nn.Module):
    """A MobileNet block whose channels are weighed by a small network."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = conv_bn(3, 8), InvertedResidual(8, 8, 1, 2)
        self.down, self.up = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(F.silu(self.stem(x)))
        gate = torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))
        return self.head((x * gate).mean((-1, -2)))


class Grouped(nn.Module):
    """Grouped convolutions in a row, a depthwise one with two outputs a channel, group norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a = conv_bn(3, 12), nn.Conv2d(12, 18, 3, 1, 1, groups=3)
        self.b, self.depth = nn.Conv2d(18, 12, 1, groups=2), nn.Conv2d(12, 24, 3, groups=12)
        self.norm, self.last = nn.GroupNorm(6, 24), nn.Conv2d(24, 6, 1)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.b(F.relu(self.a(F.relu(self.stem(x))))))
        return self.head(F.relu(self.last(F.relu(self.norm(self.depth(x))))).mean((2, 3)))


class Shuffle(nn.Module):
    """Half of the channels pass by; the others are convolved in groups; then all are shuffled."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 16)
        self.branches = nn.ModuleList(
            nn.Sequential(conv_bn(8, 8, size=1), nn.ReLU(), conv_bn(8, 8, groups=8))
            for _ in range(2)
        )
        self.grouped, self.head = nn.Conv2d(16, 12, 1, groups=2), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        for branch in self.branches:
            kept, worked = x.chunk(2, dim=1)
            x = torch.cat([kept, F.relu(branch(worked))], 1)
            n, c, h, w = x.shape
            x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(F.relu(self.grouped(x)).mean((2, 3)))


class Gates(nn.Module):
    """Layers that make a value and its gate at once, cut apart in three ways."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv1d(3, 16, 3), nn.Conv1d(8, 12, 1), nn.Linear(6, 10)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.a(x).chunk(2, 1)
        value, gate = (F.silu(gate) * value), self.b(F.silu(gate) * value)
        x = (gate[:, :6] * torch.tanh(gate[:, 6:])).mean(2)
        return self.head(F.glu(self.c(x), -1))


class Decoder(nn.Module):
    """Transposed convolutions, resizing, pixel shuffle and a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.low = conv_bn(3, 6, stride=2), conv_bn(6, 8)
        self.up, self.wide = nn.ConvTranspose2d(8, 6, 2, 2), nn.Conv2d(6, 20, 3, 1, 1)
        self.depth, self.slope = nn.ConvTranspose2d(5, 5, 3, 1, 1, groups=5), nn.PReLU(5)
        self.head = nn.Conv2d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.down(x))
        low = F.interpolate(self.low(x), scale_factor=2.0, mode="nearest")
        x = F.interpolate(x, scale_factor=4.0, mode="bilinear") + self.up(F.leaky_relu(low))
        x = self.slope(F.pixel_shuffle(self.wide(x), 2))
        return self.head(F.pad(self.depth(x), (0, 1, 1, 0)))


class FusedHeads(nn.Module):
    """``nn.MultiheadAttention`` with a mask of padding-free tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.attention = nn.Linear(4, WIDTH), nn.MultiheadAttention(WIDTH, 3)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 20), nn.GELU(), nn.Linear(20, WIDTH))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(x).transpose(0, 1)
        x = self.norm(x + self.attention(x, x, x, need_weights=False)[0])
        return self.head((x + self.mlp(x)).mean(0))


class ClassToken(nn.Module):
    """A vision transformer with a class token, norms of queries and keys, and layer scale."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.positions = nn.Parameter(torch.randn(1, 5, WIDTH))
        self.norm, self.qkv = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.q_norm, self.k_norm = nn.LayerNorm(4), nn.LayerNorm(4)
        self.project, self.scale = nn.Linear(WIDTH, WIDTH), nn.Parameter(torch.randn(WIDTH))
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        b, n, c = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, n, 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)
        x = x + self.scale * self.project(y.transpose(1, 2).reshape(b, n, c))
        return self.head(x[:, 0])


class Rotary(nn.Module):
    """Causal attention with rotated queries, fewer key heads than query heads, and a gated MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, WIDTH)
        self.q, self.kv = nn.Linear(WIDTH, 24), nn.Linear(WIDTH, 2 * 12)
        self.o, self.norm = nn.Linear(24, WIDTH), nn.LayerNorm(WIDTH)
        self.gate, self.up, self.down = (
            nn.Linear(WIDTH, 16),
            nn.Linear(WIDTH, 16),
            nn.Linear(16, WIDTH),
        )
        angles = torch.arange(TOKENS)[:, None] * torch.tensor([1.0, 0.1]).repeat(2)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def rotate(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return x * self.cos + torch.cat([-b, a], -1) * self.sin

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids)
        n = x.shape[0]
        q = self.rotate(self.q(x).view(n, TOKENS, 6, 4).transpose(1, 2))
        k, v = self.kv(x).view(n, TOKENS, 2, 3, 4).permute(2, 0, 3, 1, 4)
        k, v = (y.repeat_interleave(2, 1) for y in (self.rotate(k), v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = self.norm(x + self.o(y.transpose(1, 2).reshape(n, TOKENS, 24)))
        x = x + self.down(F.silu(self.gate(x)) * self.up(x))
        return x.mean(1) @ self.words.weight.t()


class Windows(nn.Module):
    """Attention in windows with a learned bias for each head, shifted."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 2, 2)
        self.norm, self.qkv = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH)
        self.table = nn.Parameter(torch.randn(9, 3))
        places = torch.arange(4)
        y, x = (places // 2)[:, None] - places // 2, (places % 2)[:, None] - places % 2
        self.register_buffer("distances", (3 * (y + 1) + x + 1).flatten())
        self.project, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).permute(0, 2, 3, 1)  # 4 x 4 tokens in windows of 2 x 2
        y = torch.roll(self.norm(x), (-1, -1), (1, 2))
        y = y.view(-1, 2, 2, 2, 2, WIDTH).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, WIDTH)
        q, k, v = self.qkv(y).view(-1, 4, 3, 3, 4).permute(2, 0, 3, 1, 4)
        bias = self.table[self.distances].view(4, 4, 3).permute(2, 0, 1)
        scores = (q * 0.5) @ k.transpose(-2, -1) + bias.unsqueeze(0)
        y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(-1, 4, WIDTH)
        y = self.project(y).view(-1, 2, 2, 2, 2, WIDTH).permute(0, 1, 3, 2, 4, 5)
        x = x + torch.roll(y.reshape(-1, 4, 4, WIDTH), (1, 1), (1, 2))
        return self.head(x.mean((1, 2)))


class Tied(nn.Module):
    """One convolution that is used twice, and a bias that two layers share."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, 1, 1), nn.Linear(8, 8)
        self.c.bias, self.head = self.b.bias, nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.b(F.relu(self.b(F.relu(self.a(x))))))
        return self.head(F.relu(self.c(x.mean((2, 3)))))


class Unknown(nn.Module):
    """An operation that no rule follows, between layers that can be pruned."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 7)
        self.head = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        x = torch.cummax(self.b(x), -1)[0]
        return self.head(F.relu(self.c(x)))


class Strided(nn.Module):
    """Every second channel is the gate of the one before it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv1d(3, 16, 1), nn.Conv1d(8, 10, 1)
        self.even, self.odd, self.head = nn.Linear(5, 6), nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = self.b(F.gelu(x[:, ::2]) * x[:, 1::2]).mean(2)
        return self.head(F.relu(self.even(x[:, ::2])) + self.odd(x[:, 1::2]))


class Squeezed(nn.Module):
    """Axes of length 1 are dropped, also where a channel axis may become 1 long."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv1d(3, 2, 9), nn.Linear(2, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x)).squeeze((1, 2))
        return self.head(F.relu(self.b(x)).squeeze(1))


class Grey(nn.Module):
    """Images of one channel: the first layer has as many groups as inputs, and is not depthwise."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = conv_bn(1, 6), conv_bn(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.b(F.relu(self.a(x)))).mean((2, 3)))


Shapes = tuple[tuple[int, ...], ...]
IMAGE, SEQUENCE = ((3, 8, 8),), ((TOKENS, 4),)
PRUNABLE: dict[str, tuple[Callable[[], nn.Module], Shapes]] = {
    **NETWORKS,
    "zero_cat": (ZeroCat, IMAGE),
    "dense": (Dense, IMAGE),
    "inception": (Inception, IMAGE),
    "squeeze_excite": (SqueezeExcite, IMAGE),
    "grouped": (Grouped, IMAGE),
    "one_input": (lambda: DigitNet(8), ((1, 8, 8),)),
    "shuffle": (Shuffle, IMAGE),
    "gates": (Gates, ((3, 9),)),
    "decoder": (Decoder, IMAGE),
    "fused_heads": (FusedHeads, SEQUENCE),
    "vit": (lambda: VisionTransformer(12, 2, 3, 20, 4, 8), IMAGE),
    "class_token": (ClassToken, IMAGE),
    "rotary": (Rotary, ((TOKENS,),)),
    "windows": (Windows, IMAGE),
    "encoder": (lambda: TextEncoder(12, 2, 3, 20, 11, TOKENS), ((TOKENS,), (TOKENS,))),
    "tied": (Tied, IMAGE),
    "strided": (Strided, ((3, 9),)),
    "squeezed": (Squeezed, ((3, 9),)),
    "unknown": (Unknown, ((4,),)),
    "grey": (Grey, ((1, 8, 8),)),
}


def inputs(name: str, batch: int, seed: int = 0) -> tuple[Tensor, ...]:
    """Return a batch for a network; token ids for those that read tokens."""
    generator = torch.Generator().manual_seed(seed)
    shapes = PRUNABLE[name][1]
    if name not in ("rotary", "encoder"):
        return tuple(torch.randn(batch, *shape, generator=generator) for shape in shapes)
    ids = torch.randint(11, (batch, TOKENS), generator=generator)
    mask = (torch.arange(TOKENS) < 3).long().expand(batch, -1).contiguous()
    return (ids,) if len(shapes) == 1 else (ids, mask)
