"""Distillation into a second head, which exists for training only."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.algorithms.cross_entropy import matched

NEEDS = frozenset({"classes", "pooled"})


class DualHead(nn.Module):
    """A second classifier on the student's pooled feature; it is not exported.

    It maps ``(N, features)`` to ``(N, classes)``. By default it is the source's nonlinear form
    for CIFAR: linear, dropout, batch norm, ReLU, linear. With ``hidden=None`` it is one linear
    layer, the source's form for ImageNet.

    Args:
        features: channels of the pooled feature.
        classes: number of classes.
        hidden: width of the nonlinear form, or None. The source has 200.
        dropout: probability of the nonlinear form. The source has 0.1.

    The nonlinear form needs two samples a batch or more while it trains.
    """

    def __init__(
        self, features: int, classes: int, *, hidden: int | None = 200, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.layers = (
            nn.Sequential(nn.Linear(features, classes))
            if hidden is None
            else nn.Sequential(
                nn.Linear(features, hidden),
                nn.Dropout(dropout),
                nn.BatchNorm1d(hidden),
                nn.ReLU(),
                nn.Linear(hidden, classes),
            )
        )

    def forward(self, feature: Tensor) -> Tensor:
        """Return the logits of the second head."""
        logits: Tensor = self.layers(feature)
        return logits


def dual_head_loss(
    second_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 2.0
) -> Tensor:
    """Return ``T^2 sum_c log cosh((s2 - t) / 2T)``, mean over the batch.

    Needs the logits of a second head (``DualHead`` on the pooled feature); the first head learns
    from the labels alone. Logits are compared one by one, so adding a constant to them matters:
    that is what disagrees with the labels' cross-entropy in one head.

    Args:
        second_logits: ``(N, C)``, of the second head.
        teacher_logits: ``(N, C)``; no gradient flows into them.
        temperature: T > 0; the source takes 2. Large, it is a squared error over 8; small, an
            absolute one.

    Source: Yang et al., "Dual-Head Knowledge Distillation", arXiv 2411.08937. Its weight is 1 for
    CIFAR and 0.1 for ImageNet, beside the labels' with 1. The released code (``BinaryKLNorm``) is
    the divergence of sigmoid((s2 - t) / T) from 1/2 in both directions of the class, with the
    sigmoid clamped at 1e-8; this is the same without the clamp, which ends the gradient for
    logits more than 37 apart.
    """
    student, teacher = matched(second_logits, teacher_logits)
    half = ((student - teacher) / (2 * temperature)).abs()
    log_cosh = half + F.softplus(-2 * half) - math.log(2)
    return log_cosh.sum(-1).mean() * temperature**2
