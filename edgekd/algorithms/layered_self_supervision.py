"""A network that teaches its own earlier stages what its last one knows; no teacher."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.algorithms.hierarchical_self_supervision import branch_loss
from edgekd.algorithms.kd_loss import kl_loss
from edgekd.algorithms.label_augmentation import ROTATIONS, aggregate
from edgekd.algorithms.precision import wide

NEEDS = frozenset({"classes", "labels", "pooled"})  # branches take any feature


def layered_loss(
    logits: Tensor,
    branches: Sequence[Tensor],
    *,
    labels: Tensor,
    features: Sequence[Tensor] = (),
    temperature: float = 3.0,
    branch_weight: float = 1.0,
    logit_weight: float = 1.0,
    feature_weight: float = 0.0,
    transforms: int = ROTATIONS,
    ignore_index: int = -1,
) -> Tensor:
    """Return the labels' cross entropies plus what the last stage teaches the others; a scalar.

    Needs class logits and labels; images that can be turned; a branch (``JointHead``) behind one
    stage or more. ``CE(y, z) + sum_l CE(joint, a_l)`` plus ``branch_weight`` times
    ``sum_{l < L} T^2 KL(a_L || a_l)``, ``logit_weight`` times ``sum_l T^2 KL(z || aggregate(a_l))``
    and ``feature_weight`` times ``sum_{l < L} mean((f_l - f_L)^2)``. Targets get no gradient:
    neither the deepest branch from the first sum, nor the final logits from the second, nor the
    last feature from the third. Without branches only ``CE(y, z)`` stays.

    Args:
        logits: z ``(N, C)``, of the copies that were not turned.
        branches: joint logits a_l ``(n N, n C)``, from the first stage to the last.
        labels: integer ``(N,)``.
        features: f_l of equal shapes (behind projectors), from the first stage to the last.
        temperature: T.
        branch_weight: of the second sum.
        logit_weight: of the third.
        feature_weight: of the last; 0 asks for no features.
        transforms: n.
        ignore_index: the label of a sample without one.

    Raises ValueError for features that are asked for and missing, or of unlike shapes.

    Not verified: Dahri et al., "LSSKD", arXiv 2506.07055, describes such branches, a divergence
    between layers and an L2 alignment of features; neither its formulas nor its weights could be
    checked and no code was found. The sums above are our reading, after HSAKD (arXiv 2107.13715),
    and weights and T are ours.
    """
    known = (labels != ignore_index).sum().clamp_min(1)
    errors = F.cross_entropy(
        wide(logits), labels.long(), ignore_index=ignore_index, reduction="sum"
    )
    terms = [errors / known]
    if branches:
        terms.append(
            branch_loss(branches, labels=labels, transforms=transforms, ignore_index=ignore_index)
        )
    wider = [wide(branch) for branch in branches]
    for branch in wider[:-1]:
        terms.append(branch_weight * kl_loss(branch, wider[-1], temperature))
    for branch in wider:
        found = aggregate(branch, transforms)
        terms.append(logit_weight * kl_loss(found, wide(logits), temperature))
    if feature_weight > 0:
        if len(features) < 2 or len({feature.shape for feature in features}) > 1:
            raise ValueError("an alignment of features needs two or more of equal shapes")
        target = wide(features[-1].detach())
        terms += [feature_weight * F.mse_loss(wide(f), target) for f in features[:-1]]
    return torch.stack(terms).sum()
