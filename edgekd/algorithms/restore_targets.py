"""Full targets from the few probabilities of a teacher that were stored."""

from __future__ import annotations

from torch import Tensor

from edgekd.algorithms.precision import wide


def restore_targets(probabilities: Tensor, indices: Tensor, classes: int) -> Tensor:
    """Return ``(N, C)`` probabilities: the stored ones, and what is left spread over the rest.

    Args:
        probabilities: of the k likeliest classes ``(N, k)``, any float type.
        indices: their classes ``(N, k)``, int64, all different in a row.
        classes: C.

    Rounding in storage can lift a sum above 1; then nothing is left, and the row is divided by its
    sum. So it is where k = C.

    Raises ValueError for k > C.

    Source: Shen and Xing, "A Fast Knowledge Distillation Framework for Visual Recognition", ECCV
    2022, arXiv 2112.01528 ("marginal smoothing").
    """
    stored = wide(probabilities)
    count = stored.shape[-1]
    if count > classes:
        raise ValueError(f"{count} probabilities are too many for {classes} classes")
    left = (1 - stored.sum(-1, keepdim=True)).clamp_min(0) / max(classes - count, 1)
    full = left.expand(*stored.shape[:-1], classes).scatter(-1, indices, stored)
    return full / full.sum(-1, keepdim=True)
