"""Distillation on what a network computes on the way to its output."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edgekd.algorithms.kd_loss import relative_mse_loss


def feature_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Return the mean over pairs of ``relative_mse_loss``, so that every depth weighs the same.

    Args:
        student: one tensor or more, of any shapes.
        teacher: tensors of the same shapes; no gradient flows into them.

    Source: the loss per layer of Kurtic et al., "Sparse Fine-tuning for Inference Acceleration of
    Large Language Models", arXiv 2310.06927 ("SquareHead"). They add the layers up; the mean keeps
    its weight in the recipe the same for shallow and deep networks.
    """
    pairs = zip(student, teacher, strict=True)
    return torch.stack([relative_mse_loss(found, expected) for found, expected in pairs]).mean()
