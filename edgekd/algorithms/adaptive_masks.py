"""Distillation of maps through masks that student and teacher choose together.

Lan & Tian, "ACAM-KD: Adaptive and Cooperative Attention Masking for Knowledge Distillation", ICCV
2025, arXiv 2503.06307. There is no released code, and the formulas here are our reading of
summaries by others: not verified against the paper. The loss is
``masked_imitation_loss + mask_diversity_loss(channel masks) + mask_diversity_loss(spatial masks)``
with weights 1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.algorithms.precision import wide

NEEDS = frozenset({"maps", "dense"})


class AdaptiveMasks(nn.Module):
    """Masks over channels and places from attention of the teacher to the student.

    The teacher's places ask (queries), the student's answer (keys and values), so that masks change
    as the student does. Each of M learned units makes one mask of either kind. For training only.

    Args:
        channels: C of both maps (the student's behind a projector), 2 and up.
        masks: M; 6 for detection in the source, the number of classes for segmentation.

    Raises ValueError for fewer than two channels or no mask.
    """

    def __init__(self, channels: int, masks: int = 6) -> None:
        super().__init__()
        if channels < 2 or masks < 1:
            raise ValueError("masks are chosen for two channels or more, and at least one mask")
        self.query = nn.Linear(channels, channels // 2)
        self.key = nn.Linear(channels, channels // 2)
        self.value = nn.Linear(channels, channels)
        self.channel_units = nn.Parameter(torch.randn(masks))
        self.place_units = nn.Parameter(torch.randn(masks, channels) * channels**-0.5)

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Return masks over channels ``(N, M, C)`` and places ``(N, M, H, W)``, 0 to 1.

        Args:
            student: ``(N, C, H, W)``.
            teacher: the same shape; no gradient flows into it.

        Time grows with the square of H * W.
        """
        answers, questions = (wide(x).flatten(2).mT for x in (student, teacher.detach()))
        fused = F.scaled_dot_product_attention(
            self.query(questions), self.key(answers), self.value(answers)
        )
        over_channels = (self.channel_units[:, None] * fused.mean(1)[:, None]).sigmoid()
        over_places = (self.place_units @ fused.mT).sigmoid()
        return over_channels, over_places.reshape(*over_places.shape[:2], *student.shape[2:])


def masked_imitation_loss(
    student: Tensor, teacher: Tensor, channel_masks: Tensor, place_masks: Tensor
) -> Tensor:
    """Return the squared error weighted by each mask, mean over masks; both kinds added; a scalar.

    A mask's weights are divided by their sum: masks that are constant, at any level, give twice the
    plain mean squared error, so that nothing is gained by masks that shrink to 0. Summaries of the
    paper have squares of the masks under the same sum; for masks of 0 and 1 that is the same.

    Args:
        student: ``(N, C, H, W)``.
        teacher: the same shape; no gradient flows into it.
        channel_masks: ``(N, M, C)``, 0 to 1.
        place_masks: ``(N, M, H, W)``, 0 to 1.

    Raises ValueError for unlike maps.
    """
    if student.shape != teacher.shape or student.ndim != 4:
        found, expected = tuple(student.shape), tuple(teacher.shape)
        raise ValueError(f"maps are compared place by place, not {found} with {expected}")
    errors = (wide(student) - wide(teacher.detach())).square()
    over_channels = _weighted(errors.mean((2, 3)), wide(channel_masks))
    over_places = _weighted(errors.mean(1).flatten(1), wide(place_masks).flatten(2))
    return over_channels + over_places


def _weighted(errors: Tensor, masks: Tensor) -> Tensor:
    total = torch.einsum("nk,nmk->nm", errors, masks)
    return (total / masks.sum(-1).clamp_min(1e-6)).mean()


def mask_diversity_loss(masks: Tensor) -> Tensor:
    """Return how much masks overlap, a Dice coefficient: 0 if disjoint, M - 1 if all are the same.

    ``2 sum_{i != j} <M_i, M_j> / (sum_i |M_i|^2 + sum_j |M_j|^2)``, mean over the batch; a scalar.

    Args:
        masks: ``(N, M, ...)``, 0 to 1.
    """
    flat = wide(masks).flatten(2)
    energy = flat.square().sum((1, 2))
    overlap = flat.sum(1).square().sum(1) - energy
    return (overlap / energy.clamp_min(1e-12)).mean()
