"""What a network predicts on average for each class."""

from __future__ import annotations

import torch
from torch import Tensor

from edgekd.algorithms.cross_entropy import log_probabilities


@torch.no_grad()
def class_means(logits: Tensor, labels: Tensor, *, ignore_index: int = -1) -> Tensor:
    """Return ``(C, C)``: row c is the mean of softmax(logits) over the samples of class c.

    Args:
        logits: ``(n, C)``.
        labels: classes ``(n,)``, int64.
        ignore_index: the label of samples without one, which are left out.

    The row of a class without samples is uniform.
    """
    classes = logits.shape[-1]
    chosen = labels != ignore_index
    probabilities = log_probabilities(logits[chosen]).exp()
    sums = probabilities.new_zeros(classes, classes).index_add(0, labels[chosen], probabilities)
    totals = sums.sum(-1, keepdim=True)
    return torch.where(totals > 0, sums / totals.clamp_min(1e-12), 1 / classes)
