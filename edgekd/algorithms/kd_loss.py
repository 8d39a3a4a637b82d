"""Distillation losses on the output."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

NEEDS = frozenset({"classes"})  # kl_loss; relative_mse_loss needs nothing


def kl_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return ``T^2 * KL(softmax(teacher / T) || softmax(student / T))``, mean over the batch.

    Args:
        student: logits ``(N, C)``.
        teacher: logits ``(N, C)``; no gradient flows into them.
        temperature: T > 0.

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531),
    section 2; T^2 keeps the gradient's size independent of T.
    """
    log_p = F.log_softmax(student / temperature, dim=-1)
    log_q = F.log_softmax(teacher.detach() / temperature, dim=-1)
    return F.kl_div(log_p, log_q, reduction="batchmean", log_target=True) * temperature**2


def relative_mse_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the squared error over the teacher's mean square: 0 if equal, 1 for a zero student.

    For embeddings and regression, where the output's scale is not known beforehand.
    """
    teacher = teacher.detach()
    return F.mse_loss(student, teacher) / teacher.square().mean().clamp_min(1e-12)
