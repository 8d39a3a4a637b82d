"""A vision transformer for 32x32 images.

After Dosovitskiy et al., ICLR 2021 (arXiv 2010.11929), with pre-normalisation, learned positions
and, instead of a class token, the mean over all tokens.

Input: float32 ``(N, 3, 32, 32)``, RGB / 255, normalised. Output: logits ``(N, classes)``.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


class Attention(nn.Module):
    """Multi-head self-attention over ``(N, tokens, width)``."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        _, tokens, width = x.shape
        qkv = self.qkv(x).reshape(-1, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = scaled_dot_product_attention(q, k, v)
        return self.project(y.transpose(1, 2).reshape(-1, tokens, width))


class Layer(nn.Module):
    """Attention and a two-layer perceptron, each behind a LayerNorm and around a shortcut."""

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """Patches of ``patch`` x ``patch`` pixels through ``depth`` layers."""

    def __init__(
        self,
        width: int = 128,
        depth: int = 6,
        heads: int = 4,
        hidden: int = 256,
        patch: int = 4,
        image: int = 32,
        classes: int = 10,
    ):
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.positions = nn.Parameter(torch.zeros(1, (image // patch) ** 2, width))
        self.layers = nn.Sequential(*(Layer(width, heads, hidden) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)
        nn.init.normal_(self.positions, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.norm(self.layers(x)).mean(1))


def vit() -> nn.Module:
    """Return the network of the benchmarks: 6 layers of width 128, 0.8 M parameters."""
    return VisionTransformer()
