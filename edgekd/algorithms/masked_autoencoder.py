"""Distillation while a student reconstructs images of which it sees a part.

Bai et al., "Masked Autoencoders Enable Efficient Knowledge Distillers" (DMAE), CVPR 2023, arXiv
2208.12256. The loss is ``reconstruction_loss + alignment_loss``, weights 1, with the teacher's mask
(``token_mask``, ratio 0.75); the feature is that of a block after three quarters of the depth. Then
an ordinary training with labels follows. Neither labels nor classes are needed.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.algorithms.precision import wide
from edgekd.algorithms.token_mask import TokenMask, restored

NEEDS = frozenset({"tokens"})


def reconstruction_loss(prediction: Tensor, target: Tensor, masked: Tensor) -> Tensor:
    """Return the squared error of a patch's pixels, mean over the hidden patches; a scalar.

    Args:
        prediction: ``(N, T, V)``, V values a patch, from a ``PatchDecoder``.
        target: the same shape, from ``token_mask.patches``; not normalised patch by patch, as in
            the released script.
        masked: bool ``(N, T)``, True where a patch was hidden. Visible ones do not count; 0 if all
            are visible.

    Raises ValueError for shapes that do not fit.
    """
    if prediction.shape != target.shape or masked.shape != prediction.shape[:2]:
        found, expected = tuple(prediction.shape), tuple(target.shape)
        raise ValueError(f"patches {found} cannot be compared with {expected} under such a mask")
    masked = masked.to(prediction.device)
    errors = (wide(prediction) - wide(target.detach())).square().mean(-1)
    return errors.where(masked, errors.new_zeros(())).sum() / masked.sum().clamp_min(1)


def alignment_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return ``mean |s / |s| - t / |t||``, over tokens and channels; a scalar.

    Needs tokens of equal shapes (behind a projector of the student's). A token's length does not
    count. At most ``2 / sqrt(C)``; about ``1.13 / sqrt(C)`` for random directions.

    Args:
        student: ``(N, V, C)``, the visible tokens, special ones too.
        teacher: the same shape and order; no gradient flows into them.

    Raises ValueError for unlike shapes.

    Source: arXiv 2208.12256; that both sides are normalised, and that the L1 distance is a mean,
    is taken from the released code.
    """
    if student.shape != teacher.shape:
        found, expected = tuple(student.shape), tuple(teacher.shape)
        raise ValueError(f"tokens are compared one by one, not {found} with {expected}")
    return F.l1_loss(
        F.normalize(wide(student), dim=-1), F.normalize(wide(teacher.detach()), dim=-1)
    )


class PatchDecoder(nn.Module):
    """Predict the pixels of all patches from the visible tokens. For training only.

    Linear to ``width``, hidden tokens as one learned vector, learned positions, transformer blocks,
    linear to pixels.

    Args:
        channels: C of the encoder's tokens.
        patch_values: V, values of a patch: its pixels times the image's channels.
        tokens: T, patches of an image.
        width: of the blocks, a multiple of ``heads``; 512 in the source.
        blocks: 8 in the source; a small one suits small images.
        heads: 16 in the source.
        special: tokens in front that belong to no patch (CLS); always visible.

    Raises ValueError for a width that the heads cannot share.

    Source: He et al., arXiv 2111.06377, section 3, whose positions are fixed sines; here learned.
    """

    def __init__(
        self,
        channels: int,
        patch_values: int,
        tokens: int,
        *,
        width: int = 128,
        blocks: int = 1,
        heads: int = 4,
        special: int = 0,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"{heads} heads cannot share a width of {width}")
        self.special = special
        self.enter = nn.Linear(channels, width)
        self.hidden = nn.Parameter(torch.empty(width))
        self.positions = nn.Parameter(torch.empty(special + tokens, width))
        layers = (
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(blocks)
        )
        self.blocks = nn.Sequential(*layers, nn.LayerNorm(width))
        self.leave = nn.Linear(width, patch_values)
        for parameter in (self.hidden, self.positions):
            nn.init.trunc_normal_(parameter, std=0.02)

    def features(self, visible: Tensor, mask: TokenMask) -> Tensor:
        """Return the tokens behind the blocks, ``(N, special + T, width)``: G2SD compares them.

        Args:
            visible: ``(N, special + V, C)``, patches in the mask's order.
            mask: of the patches.
        """
        tokens = self.enter(visible)
        special, seen = tokens[:, : self.special], tokens[:, self.special :]
        tokens = torch.cat([special, restored(seen, mask, self.hidden)], 1) + self.positions
        decoded: Tensor = self.blocks(tokens)
        return decoded

    def forward(self, visible: Tensor, mask: TokenMask) -> Tensor:
        """Return pixels ``(N, T, V)`` from tokens as ``features`` takes them."""
        pixels: Tensor = self.leave(self.features(visible, mask)[:, self.special :])
        return pixels
