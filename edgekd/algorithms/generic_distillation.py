"""Distillation of what a masked autoencoder's decoder knows, before any task is."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.algorithms.precision import wide

NEEDS = frozenset({"tokens"})


def generic_loss(student: Tensor, teacher: Tensor, *, beta: float = 2.0) -> Tensor:
    """Return the smooth L1 distance to the teacher's tokens, normalised; mean over everything.

    Needs tokens of the decoders of two masked autoencoders under the same mask. With ``d`` a
    student's value minus the teacher's behind a layer norm without weights, it is ``d^2 / (2
    beta)`` up to ``beta`` and ``|d| - beta / 2`` beyond. All tokens count, visible, hidden and CLS:
    the decoder's hidden tokens carry what the teacher infers. No labels.

    Args:
        student: ``(N, T, C)`` from a ``FeaturePredictor``; it is not normalised.
        teacher: the same shape, in the same order of tokens; no gradient flows into them.
        beta: > 0; 2 in the source.

    Raises ValueError for unlike shapes and a beta <= 0.

    Source: Huang et al., "Generic-to-Specific Distillation of Masked Autoencoders" (G2SD), CVPR
    2023, arXiv 2302.14771, with the released code's normalisation, beta and tokens
    (there those behind the fourth block of the teacher's decoder). Its second stage, labels and the
    teacher's classes, is no loss of its own. A term on encoder features, which has the weight 0
    there, is left out.
    """
    if student.shape != teacher.shape:
        found, expected = tuple(student.shape), tuple(teacher.shape)
        raise ValueError(f"tokens are compared one by one, not {found} with {expected}")
    if beta <= 0:
        raise ValueError(f"beta is above 0, not {beta:g}")
    teacher = wide(teacher.detach())
    target = F.layer_norm(teacher, teacher.shape[-1:], eps=1e-6)
    return F.smooth_l1_loss(wide(student), target, beta=beta)


class FeaturePredictor(nn.Module):
    """Two linear layers from the student's decoder to the teacher's channels. For training only.

    Args:
        student_channels: of the student's decoder.
        teacher_channels: of the teacher's, and of the layer between.
    """

    def __init__(self, student_channels: int, teacher_channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(student_channels, teacher_channels),
            nn.GELU(),
            nn.Linear(teacher_channels, teacher_channels),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Return ``(N, T, teacher_channels)``."""
        predicted: Tensor = self.layers(tokens)
        return predicted
