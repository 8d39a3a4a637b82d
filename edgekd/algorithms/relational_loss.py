"""Distillation of how samples lie to one another, whatever the feature's size.

Source: Park et al., "Relational Knowledge Distillation", CVPR 2019, arXiv 1904.05068, section 3.2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.algorithms.feature_shapes import pooled
from edgekd.algorithms.precision import wide

NEEDS = frozenset({"pooled"})


def relational_distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the Huber distance between the two networks' tables of distances between samples.

    Needs a feature with a vector for each sample (maps and tokens are averaged); C may differ.
    ``d_ij = |x_i - x_j| / mean_{i != j} |x_i - x_j|`` for each network;
    the loss is the mean over pairs i != j of ``huber(d_ij_s - d_ij_t)``, with delta 1.

    Args:
        student: ``(N, C)``, ``(N, T, C)`` or ``(N, C, H, W)``, N >= 2.
        teacher: the same, with other T, C, H, W; no gradient flows into it.

    Raises ValueError for one sample alone or unlike batches.

    The weights are 25 for distances and 50 for angles on classification in the comparison of Tian
    et al., arXiv 1910.10699 (released code), 1 to 2 as in the paper. The authors' code also
    averages over the N pairs i = j, which are always 0.
    """
    student, teacher = _vectors(student, teacher, least=2)
    return F.smooth_l1_loss(_distances(student), _distances(teacher))


def relational_angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the Huber distance between the cosines of all angles that three samples make.

    Needs a feature with a vector for each sample (maps and tokens are averaged); C may differ.
    For each corner j, ``cos = <e_ij, e_kj>``, ``e_ij = (x_i - x_j) / |x_i - x_j|``; the loss is
    the mean over different i, j, k. Memory grows with N^3.

    Args:
        student: ``(N, C)``, ``(N, T, C)`` or ``(N, C, H, W)``, N >= 3.
        teacher: the same, with other T, C, H, W; no gradient flows into it.

    Raises ValueError for fewer than three samples or unlike batches.

    The authors' code also averages over triplets with equal samples, which are 0 but for rounding.
    """
    student, teacher = _vectors(student, teacher, least=3)
    return F.smooth_l1_loss(_cosines(student), _cosines(teacher))


def _vectors(student: Tensor, teacher: Tensor, least: int) -> tuple[Tensor, Tensor]:
    if len(student) != len(teacher) or len(student) < least:
        raise ValueError(f"relations need one batch of {least} samples or more for both networks")
    return pooled(wide(student)), pooled(wide(teacher.detach()))


def _distances(x: Tensor) -> Tensor:
    exact = "donot_use_mm_for_euclid_dist"  # the faster form loses the digits of close samples
    distances = torch.cdist(x, x, compute_mode=exact)[~_same(x)]
    return distances / distances.mean().clamp_min(1e-12)


def _cosines(x: Tensor) -> Tensor:
    edges = F.normalize(x[None] - x[:, None], dim=-1)  # (corner, end, C)
    cosines = edges @ edges.transpose(1, 2)
    same = _same(x)
    return cosines[~(same[:, :, None] | same[:, None] | same[None])]


def _same(x: Tensor) -> Tensor:
    return torch.eye(len(x), dtype=torch.bool, device=x.device)
