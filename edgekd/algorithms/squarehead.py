"""Distillation on what a network computes on the way to its output."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

NEEDS = frozenset({"pooled"})  # any features do, if their shapes are equal


def squarehead_loss(
    student: Sequence[Tensor], teacher: Sequence[Tensor], valid: Tensor | None = None
) -> Tensor:
    """Return the sum over layers of ``|s - t|^2 / |t|^2``: 0 if equal, 1 a layer for zeros.

    Both sums go over the whole batch tensor, in float32. A layer's scale does not weigh.

    Args:
        student: one tensor or more, of any shapes and float types.
        teacher: tensors of the same shapes; no gradient flows into them.
        valid: which tokens count, bool ``(N, T)``. It concerns layers of shape ``(N, T, ...)`` or
            ``(N * T, C)``; in all others everything counts.

    Source: Kurtic et al., "Sparse Fine-tuning for Inference Acceleration of Large Language
    Models", arXiv 2310.06927, section 3 ("SquareHead").
    """
    pairs = zip(student, teacher, strict=True)
    return torch.stack([_layer(found, expected, valid) for found, expected in pairs]).sum()


def _layer(student: Tensor, teacher: Tensor, valid: Tensor | None) -> Tensor:
    student, teacher = student.float(), teacher.detach().float()
    if valid is not None and (left_out := _left_out(teacher, valid)) is not None:
        student, teacher = (x.masked_fill(left_out, 0.0) for x in (student, teacher))
    error = F.mse_loss(student, teacher, reduction="sum")
    scale = torch.dot(teacher.reshape(-1), teacher.reshape(-1))
    return error / scale.clamp_min(1e-12 * teacher.numel())


def _left_out(feature: Tensor, valid: Tensor) -> Tensor | None:
    """Return where a feature belongs to a token that does not count; None without a token axis."""
    if feature.ndim > 2 and feature.shape[:2] == valid.shape:
        kept = valid
    elif feature.ndim == 2 and feature.shape[0] == valid.numel():
        kept = valid.reshape(-1)
    else:
        return None
    return ~kept.reshape(*kept.shape, *[1] * (feature.ndim - kept.ndim))
