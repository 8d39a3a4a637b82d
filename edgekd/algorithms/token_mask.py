"""Random masks over the patches of an image, and what they hide.

He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, arXiv 2111.06377,
section 3: a network sees a random quarter of the patches and reconstructs the others.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class TokenMask(NamedTuple):
    """Which tokens of each image are visible. Teacher and student get the same one.

    ``kept`` int64 ``(N, V)``: the visible tokens, in random order. ``masked`` bool ``(N, T)``: True
    where a token is hidden. ``restore`` int64 ``(N, T)``: the place of token t among the visible
    ones followed by the hidden ones.
    """

    kept: Tensor
    masked: Tensor
    restore: Tensor


def random_mask(count: int, tokens: int, ratio: float, generator: torch.Generator) -> TokenMask:
    """Hide ``ratio`` of the tokens of each image, at random; at least one stays visible.

    Args:
        count: N, images.
        tokens: T, patches of one.
        ratio: 0 (nothing hidden) up to, not with, 1; 0.75 in the source.
        generator: of a CPU; the same state gives the same mask. The result is on the CPU.

    Raises ValueError for another ratio and for no tokens.
    """
    if not 0 <= ratio < 1 or tokens < 1:
        raise ValueError(f"a mask hides 0 up to all but one of the tokens, not {ratio:g} of them")
    visible = max(int(tokens * (1 - ratio)), 1)
    order = torch.rand((count, tokens), generator=generator).argsort(1)
    restore = order.argsort(1)
    return TokenMask(order[:, :visible], restore >= visible, restore)


def visible_tokens(tokens: Tensor, mask: TokenMask) -> Tensor:
    """Return the visible tokens ``(N, V, C)`` of ``(N, T, C)``, in the mask's order."""
    index = mask.kept.to(tokens.device)[:, :, None]
    return tokens.gather(1, index.expand(-1, -1, tokens.shape[-1]))


def restored(visible: Tensor, mask: TokenMask, filler: Tensor) -> Tensor:
    """Return all tokens ``(N, T, C)`` in order, ``filler`` where they were hidden.

    Args:
        visible: ``(N, V, C)``, in the mask's order.
        mask: of these tokens.
        filler: ``(C,)``.
    """
    count, kept, channels = visible.shape
    hidden = filler.to(visible.dtype).expand(count, mask.masked.shape[1] - kept, channels)
    together = torch.cat([visible, hidden], 1)
    index = mask.restore.to(visible.device)[:, :, None]
    return together.gather(1, index.expand(-1, -1, channels))


def patches(images: Tensor, size: int) -> Tensor:
    """Return square patches ``(N, T, C * size * size)`` of images ``(N, C, H, W)``, row by row.

    Raises ValueError where patches do not fill the image.
    """
    height, width = images.shape[2:]
    if height % size or width % size:
        raise ValueError(f"patches of {size} pixels do not fill images of {height} x {width}")
    return torch.nn.functional.unfold(images, size, stride=size).transpose(1, 2)


def hide_patches(images: Tensor, mask: TokenMask, size: int, fill: float = 0.0) -> Tensor:
    """Return the images with hidden patches painted over: for networks that take whole images.

    A CNN, or a transformer whose exported graph has a fixed number of tokens, cannot leave tokens
    out. Xie et al., "SimMIM", CVPR 2022, arXiv 2111.09886, mask in this way.

    Args:
        images: ``(N, C, H, W)``, as the network gets them.
        mask: of ``H / size * W / size`` tokens, row by row.
        size: of a patch, in pixels.
        fill: what hidden pixels become; 0 is the mean of standardised images.

    Raises ValueError where the mask is not one of such patches.
    """
    rows, columns = images.shape[2] // size, images.shape[3] // size
    if images.shape[2] % size or images.shape[3] % size:
        raise ValueError(f"patches of {size} pixels do not fill images of {images.shape[2:]}")
    if mask.masked.shape != (len(images), rows * columns):
        raise ValueError(
            f"a mask of {tuple(mask.masked.shape)} is not for {len(images)} x {rows * columns}"
        )
    hidden = mask.masked.to(images.device).reshape(-1, 1, rows, columns)
    hidden = hidden.repeat_interleave(size, 2).repeat_interleave(size, 3)
    return images.masked_fill(hidden, fill)
