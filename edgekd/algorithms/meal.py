"""Distillation of an ensemble's averaged probabilities, without labels."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from edgekd.algorithms.cross_entropy import soft_cross_entropy
from edgekd.algorithms.several_teachers import ensemble_logits

NEEDS = frozenset({"classes", "several-teachers"})


def meal_loss(
    student_logits: Tensor,
    teacher_logits: Sequence[Tensor],
    *,
    weights: Sequence[float] | None = None,
) -> Tensor:
    """Return the cross-entropy with the teachers' averaged probabilities, mean over the batch.

    Needs class logits of several teachers; with one it is the cross-entropy with that one. There
    is no temperature and no label. Its least value is the entropy of the average.

    Args:
        student_logits: ``(N, C)``.
        teacher_logits: ``(N, C)`` of every teacher; no gradient flows into them.
        weights: of the teachers; None for equal ones, as in the source.

    Source: Shen and Savvides, "MEAL V2", arXiv 2009.08453, section 3. The weight is 1, alone. The
    student starts from trained weights. The discriminator of the source is
    ``edgekd.algorithms.logit_discriminator``.
    """
    return soft_cross_entropy(
        student_logits, ensemble_logits(teacher_logits, weights=weights).exp()
    )
