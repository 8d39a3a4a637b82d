"""Distillation of keypoints: coordinates as classes over bins, with a weight that vanishes.

Yang et al., "Effective Whole-body Pose Estimation with Two-stages Distillation" (DWPose), ICCVW
2023, arXiv 2307.15880. First stage: the labels' loss plus ``vanishing_weight`` times
(``FEATURE_WEIGHT * summed_feature_loss + LOGIT_WEIGHT * bins_loss``). Second stage: that student
teaches a new head on its own frozen backbone, with the labels' loss plus
``HEAD_WEIGHT * bins_loss``, for about a fifth of the epochs; no feature term, no schedule.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.algorithms.precision import wide

NEEDS = frozenset({"maps"})  # of the first stage; bins_loss alone needs none
FEATURE_WEIGHT = 7e-5
LOGIT_WEIGHT = 0.1
HEAD_WEIGHT = 1.0


def vanishing_weight(epoch: int, epochs: int) -> float:
    """Return ``1 - epoch / epochs``: 1 in epoch 0, ``1 / epochs`` in the last one.

    Raises ValueError for an epoch that is not one of ``epochs``.
    """
    if not 0 <= epoch < epochs:
        raise ValueError(f"epoch {epoch} is not one of {epochs}")
    return 1 - epoch / epochs


def bins_loss(
    student: Sequence[Tensor], teacher: Sequence[Tensor], *, sharpness: float = 10.0
) -> Tensor:
    """Return ``sum over axes of KL(softmax(b t) || softmax(b s))``, mean over keypoints; a scalar.

    Needs coordinates as logits over bins, axis by axis (SimCC).

    Args:
        student: ``(N, K, B_axis)`` for each axis: K keypoints, B bins.
        teacher: the same shapes; no gradient flows into them.
        sharpness: b, which multiplies logits: the inverse of a temperature. 10 in the source, where
            the head's own loss has it; no factor makes up for it.

    Raises ValueError for unlike shapes, no axis and a sharpness <= 0.

    All keypoints count alike, visible or not, as in the released code, which is given weights for
    visibility and does not use them.
    """
    if len(student) != len(teacher) or not student or sharpness <= 0:
        raise ValueError("coordinates are compared axis by axis, with a sharpness above 0")
    losses = []
    for found, expected in zip(student, teacher, strict=True):
        if found.shape != expected.shape:
            shapes = f"{tuple(found.shape)} with {tuple(expected.shape)}"
            raise ValueError(f"bins are compared one by one, not {shapes}")
        log_p = F.log_softmax(wide(found) * sharpness, dim=-1)
        log_q = F.log_softmax(wide(expected.detach()) * sharpness, dim=-1)
        divergence = F.kl_div(log_p, log_q, reduction="none", log_target=True)
        losses.append(divergence.sum(-1).mean())
    return torch.stack(losses).sum()


def summed_feature_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return ``sum (s - t)^2 / N``, over channels and places; a scalar.

    A sum: the source's ``FEATURE_WEIGHT`` fits its own maps (RTMPose at 256 x 192) and has to
    change with the number of values in a map.

    Args:
        student: ``(N, C, H, W)``, behind a 1 x 1 convolution if its channels were others.
        teacher: the same shape; no gradient flows into it.

    Raises ValueError for unlike shapes.
    """
    if student.shape != teacher.shape:
        found, expected = tuple(student.shape), tuple(teacher.shape)
        raise ValueError(f"features are compared value by value, not {found} with {expected}")
    errors = F.mse_loss(wide(student), wide(teacher.detach()), reduction="sum")
    return errors / len(student)
