"""Distillation of where each channel of a map is active."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from edgekd.algorithms.precision import wide

NEEDS = frozenset({"maps"})


def channel_wise_loss(student: Tensor, teacher: Tensor, *, temperature: float = 4.0) -> Tensor:
    """Return ``T^2 / (N C) * sum_nc KL(phi(t_nc / T) || phi(s_nc / T))``; a scalar.

    Needs maps of equal shapes, features (behind a projector) or logits. phi is the softmax over a
    channel's H * W places: how strong a channel is does not count, only where.

    Args:
        student: ``(N, C, H, W)``, H * W > 1.
        teacher: the same shape; no gradient flows into it.
        temperature: T > 0. Large ones count more of a map than its peaks.

    Raises ValueError for unlike shapes, maps of one place and T <= 0.

    Source: Shu et al., "Channel-Wise Knowledge Distillation for Dense Prediction", ICCV 2021, arXiv
    2011.13256, with the reduction and T^2 of copies of the authors' code. T = 4 and the weights 3
    for logits and 50 for features are from memory, not verified; released code leaves T at 1.
    """
    if student.shape != teacher.shape or student.ndim != 4:
        found, expected = tuple(student.shape), tuple(teacher.shape)
        raise ValueError(f"channels are compared map by map, not {found} with {expected}")
    if student.shape[2] * student.shape[3] < 2:
        raise ValueError("a map of one place says nothing about where a channel is active")
    if temperature <= 0:
        raise ValueError(f"the temperature is above 0, not {temperature:g}")
    log_p = F.log_softmax(wide(student).flatten(2) / temperature, dim=-1)
    log_q = F.log_softmax(wide(teacher.detach()).flatten(2) / temperature, dim=-1)
    divergence = F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(-1)
    return divergence.mean() * temperature**2
