"""Distillation of where a convolutional network is active."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from edgekd.algorithms.feature_shapes import at_the_smaller_size
from edgekd.algorithms.precision import wide

NEEDS = frozenset({"maps"})


def attention_transfer_loss(student: Tensor, teacher: Tensor, *, power: float = 2.0) -> Tensor:
    """Return the squared distance of the activation maps of two networks, mean over places.

    Needs maps; the numbers of channels may differ. ``A = mean_c |x_c|^power``, flattened to a
    vector for each sample, ``a = A / |A|_2``; the loss is ``mean((a_s - a_t)^2)`` over samples and
    places. No projector is needed, and the features' scales do not count.

    Args:
        student: ``(N, C, H, W)``.
        teacher: ``(N, C', H', W')``; no gradient flows into it. The larger map is averaged to the
            size of the smaller one before anything else.
        power: 2 in the source.

    Raises ValueError for tensors that are no maps, or of unlike batches.

    Source: Zagoruyko & Komodakis, "Paying More Attention to Attention", ICLR 2017, arXiv
    1612.03928, section 3.1. Their weight of 1000 is for this mean over samples and places.
    """
    if student.ndim != 4 or teacher.ndim != 4 or len(student) != len(teacher):
        raise ValueError("attention transfer compares maps (N, C, H, W) of one batch")
    maps = at_the_smaller_size(wide(student), wide(teacher.detach()))
    found, expected = (_activity(x, power) for x in maps)
    return F.mse_loss(found, expected)


def _activity(maps: Tensor, power: float) -> Tensor:
    # Scaled to 1 first: the direction is the same, and no power of a large value overflows.
    largest = maps.detach().abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12)
    return F.normalize((maps / largest).abs().pow(power).mean(1).flatten(1), dim=1)
