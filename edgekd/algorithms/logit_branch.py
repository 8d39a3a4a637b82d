"""Small heads that turn a student's intermediate feature into logits, for training only.

Source of both: Hao et al., "One-for-All", NeurIPS 2023, arXiv 2310.19444, section 3.2, with the
layers of the authors' code. The source puts one behind each of four stages.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from edgekd.algorithms.feature_shapes import map_of_tokens, pooled, tokens_of_map


class MapBranch(nn.Module):
    """Logits from a map ``(N, C, H, W)``: separable convolutions, mean over places, linear.

    Args:
        channels: C.
        width: channels before the linear layer; in the source the larger one of what the last
            stages of student and teacher have.
        classes: number of logits.
        halvings: convolution blocks of stride 2, which double the channels; in the source as many
            as stages follow. With 0 there is a 1x1 convolution instead.

    It has batch norms: a batch of one sample with a map of one place cannot train it.
    """

    def __init__(self, channels: int, width: int, classes: int, *, halvings: int) -> None:
        super().__init__()
        sizes = [*(channels * 2**i for i in range(halvings)), width]
        blocks = (_halving(*pair) for pair in pairwise(sizes))
        self.blocks = nn.Sequential(*blocks) if halvings else nn.Conv2d(channels, width, 1)
        self.head = nn.Linear(width, classes)
        _initialize(self)

    def forward(self, maps: Tensor) -> Tensor:
        """Return logits ``(N, classes)``."""
        logits: Tensor = self.head(pooled(self.blocks(maps)))
        return logits


class TokenBranch(nn.Module):
    """Logits from tokens ``(N, special + side * side, C)``: merging, transformer blocks, linear.

    Args:
        channels: C.
        width: of the blocks, a multiple of 4; in the source what the student's last stage has.
        classes: number of logits.
        side: of the square of patches. It is halved until it is less than twice ``smallest``.
        blocks: transformer blocks with 4 heads; in the source as many as stages follow, at least 1.
        special: tokens in front that belong to no place (CLS). The first of them is classified;
            with 0 it is the mean of all tokens.
        smallest: 7 in the source, for images of 224 pixels.

    Raises ValueError for a side that cannot be halved and a width that 4 heads cannot share.

    Unlike in the authors' code, a first linear layer brings all tokens to ``width`` where C is
    another one (theirs lets the CLS token pass as it is, so that both have to be equal), and there
    is a GELU after every merging (theirs has none after the last of several).
    """

    def __init__(
        self,
        channels: int,
        width: int,
        classes: int,
        *,
        side: int,
        blocks: int = 1,
        special: int = 0,
        smallest: int = 7,
    ) -> None:
        super().__init__()
        mergings = max((side // smallest).bit_length() - 1, 0)
        if side % 2**mergings:
            raise ValueError(
                f"a square of {side} x {side} patches cannot be halved {mergings} times"
            )
        if width % 4:
            raise ValueError(f"four heads cannot share a width of {width}")
        self.special = special
        self.enter = nn.Linear(channels, width) if channels != width else nn.Identity()
        self.mergings = nn.ModuleList(_merging(width) for _ in range(mergings))
        self.blocks = nn.Sequential(*(_block(width) for _ in range(blocks)))
        self.head = nn.Linear(width, classes)
        _initialize(self)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits ``(N, classes)``."""
        tokens = self.enter(tokens)
        special, patches = tokens[:, : self.special], tokens[:, self.special :]
        for merging in self.mergings:
            patches = merging(_quarters(patches))
        tokens = self.blocks(torch.cat([special, patches], dim=1))
        logits: Tensor = self.head(tokens[:, 0] if self.special else pooled(tokens))
        return logits


def _halving(channels: int, width: int) -> nn.Module:
    def separable(out: int, stride: int) -> list[nn.Module]:
        return [
            nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False),
            nn.Conv2d(channels, out, 1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(),
        ]

    return nn.Sequential(*separable(channels, 2), *separable(width, 1))


def _merging(width: int) -> nn.Module:
    norm, linear = nn.LayerNorm(4 * width), nn.Linear(4 * width, width, bias=False)
    return nn.Sequential(norm, linear, nn.GELU())


def _block(width: int) -> nn.Module:
    return nn.TransformerEncoderLayer(
        width, 4, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )


def _quarters(patches: Tensor) -> Tensor:
    """Return each square of four patches ``(N, S * S, C)`` as one of ``(N, S * S / 4, 4 C)``."""
    return tokens_of_map(nn.functional.pixel_unshuffle(map_of_tokens(patches), 2))


def _initialize(branch: nn.Module) -> None:
    for layer in branch.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
