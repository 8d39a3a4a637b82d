"""Training on a part of the data: which samples, and how much the teacher then weighs.

Ben-Baruch et al., "Distilling the Knowledge in Data Pruning", ICML 2025, arXiv 2403.07854: with
distillation a random choice does as well as chosen samples or better, and the less data is kept,
the more the teacher is to weigh.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Order = Literal["random", "easy", "hard"]


def difficulty(
    teacher_logits: NDArray[np.floating],
    labels: NDArray[np.integer] | None = None,
    *,
    ignore_index: int = -1,
) -> NDArray[np.float64]:
    """Return the length of ``softmax(t) - y`` for every sample ``(n,)``: 0 if right and sure.

    Args:
        teacher_logits: ``(n, C)``, finite.
        labels: classes ``(n,)``; without one, y is the teacher's own class.
        ignore_index: the label of samples without one.

    Source of the score: Paul et al., "Deep Learning on a Data Diet", NeurIPS 2021, arXiv
    2107.07075 (EL2N), here of the teacher instead of networks early in training.
    """
    scores = np.asarray(teacher_logits, np.float64)
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities = scores / scores.sum(axis=1, keepdims=True)
    own = probabilities.argmax(axis=1)
    right = own if labels is None else np.where(labels == ignore_index, own, labels)
    probabilities[np.arange(len(right)), right] -= 1
    return np.asarray(np.linalg.norm(probabilities, axis=1))


def kept_samples(
    scores: NDArray[np.floating],
    fraction: float,
    *,
    order: Order = "random",
    groups: NDArray[np.integer] | None = None,
    seed: int = 0,
) -> NDArray[np.int64]:
    """Return the indices of ``round(fraction * n)`` samples, one at least, in rising order.

    Args:
        scores: ``difficulty`` of every sample ``(n,)``; only their number counts for ``random``.
        fraction: in (0, 1].
        order: which are kept: any, the easiest or the hardest. The source supports ``random``.
        groups: a class for every sample ``(n,)``: each group then keeps its share to within one
            sample. None: no groups.
        seed: of the choice, and of ties.

    Raises ValueError for a fraction outside (0, 1] and for no samples.
    """
    count = len(scores)
    if not 0 < fraction <= 1 or not count:
        raise ValueError(f"cannot keep a fraction of {fraction} of {count} samples")
    shuffled = np.random.default_rng(seed).permutation(count)
    if order != "random":
        keys = np.asarray(scores, np.float64)[shuffled] * (-1 if order == "hard" else 1)
        shuffled = shuffled[np.argsort(keys, kind="stable")]
    total = max(1, round(fraction * count))
    if groups is None:
        return np.sort(shuffled[:total]).astype(np.int64)
    names, sizes = np.unique(groups, return_counts=True)
    quotas = _quotas(sizes * (total / count), total)
    ranked = np.asarray(groups)[shuffled]
    kept = [shuffled[ranked == name][:q] for name, q in zip(names, quotas, strict=True)]
    return np.sort(np.concatenate(kept)).astype(np.int64)


def _quotas(shares: NDArray[np.floating], total: int) -> NDArray[np.int64]:
    """Return whole numbers with this sum, each within one of its share (largest remainders)."""
    whole: NDArray[np.int64] = np.floor(shares + 1e-9).astype(np.int64)
    remainders = np.argsort(-(shares - whole), kind="stable")
    whole[remainders[: total - whole.sum()]] += 1
    return whole


def teacher_weight(fraction: float) -> float:
    """Return the weight a of the teacher in ``(1 - a) label loss + a distillation``.

    ``1 - fraction / 2``: 0.95 for a tenth of the data, 0.5 for all of it. That it falls with the
    fraction is the source's finding; this line is ours.

    Raises ValueError for a fraction outside (0, 1].
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"a fraction of the data is in (0, 1], not {fraction}")
    return 1 - fraction / 2
