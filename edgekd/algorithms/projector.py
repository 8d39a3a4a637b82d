"""A linear map between the channels of two networks, for training only."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Projector(nn.Module):
    """Project a student's channels to as many as the teacher has; every place for itself.

    The same weights serve maps ``(N, C, H, W)``, where they are a 1x1 convolution, tokens
    ``(N, T, C)`` and vectors ``(N, C)``. Linear on purpose: what a projector can compute the
    student need not learn.

    Args:
        student_channels: C of what comes in.
        teacher_channels: C of what goes out.

    Source: Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, arXiv 1412.6550,
    section 2.2, have a convolution as wide as the maps' sizes differ; here maps are resized.
    """

    def __init__(self, student_channels: int, teacher_channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(student_channels, teacher_channels)

    def forward(self, feature: Tensor) -> Tensor:
        """Return the feature, of the shapes above, with the teacher's number of channels."""
        if feature.ndim == 4:
            weight = self.linear.weight[:, :, None, None]
            return F.conv2d(feature, weight, self.linear.bias)
        projected: Tensor = self.linear(feature)
        return projected
