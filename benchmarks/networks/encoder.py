"""A text encoder of BERT's kind that gives one embedding a sequence.

After Devlin et al., NAACL 2019 (arXiv 1810.04805): post-normalisation, GELU, learned positions.
The embedding is the mean over the tokens that the mask keeps, of unit length, as sentence encoders
give it (Reimers and Gurevych, EMNLP 2019, arXiv 1908.10084).

Inputs: ``ids`` and ``mask``, both int64 ``(N, tokens)``; a mask of 1 keeps a token. Output: float32
``(N, width)``.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, scaled_dot_product_attention

VOCABULARY = 8192
TOKENS = 64


class Attention(nn.Module):
    """Multi-head self-attention over ``(N, tokens, width)``; ``bias`` is added to the scores."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.project = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        _, tokens, width = x.shape
        shape = (-1, tokens, self.heads, width // self.heads)
        q, k, v = (f(x).reshape(shape).transpose(1, 2) for f in (self.query, self.key, self.value))
        y = scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.project(y.transpose(1, 2).reshape(-1, tokens, width))


class Layer(nn.Module):
    """Attention and a two-layer perceptron, each with a LayerNorm behind its shortcut."""

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.attention = Attention(width, heads)
        self.norm1 = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = self.norm1(x + self.attention(x, bias))
        return self.norm2(x + self.down(nn.functional.gelu(self.up(x))))


class TextEncoder(nn.Module):
    """Token and position embeddings through ``depth`` layers, pooled."""

    def __init__(
        self,
        width: int = 384,
        depth: int = 6,
        heads: int = 12,
        hidden: int = 1536,
        vocabulary: int = VOCABULARY,
        tokens: int = TOKENS,
    ):
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(tokens, width)
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(Layer(width, heads, hidden) for _ in range(depth))

    def tokens(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the last layer's ``(N, tokens, width)``."""
        positions = torch.arange(ids.shape[1], device=ids.device)
        x = self.norm(self.words(ids) + self.positions(positions))
        bias = (1.0 - mask[:, None, None, :].to(x.dtype)) * -1e4
        for layer in self.layers:
            x = layer(x, bias)
        return x

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        kept = mask[:, :, None].to(torch.float32)
        total = (self.tokens(ids, mask) * kept).sum(1)
        return normalize(total / kept.sum(1).clamp_min(1.0), dim=1)


def encoder() -> nn.Module:
    """Return the network of the benchmarks: 6 layers of width 384, 14 M parameters."""
    return TextEncoder()
