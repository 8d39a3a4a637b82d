"""Distillation on logits that are standardised first: their shape counts, their scale does not."""

from __future__ import annotations

from torch import Tensor

from edgekd.algorithms.kd_loss import kl_loss

NEEDS = frozenset({"classes", "three-classes"})
MIN_CLASSES = 3  # two standardised logits are always (+0.7, -0.7) or the reverse: no gradient


def standardized_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return ``kl_loss`` of the z-scores of every row: ``(x - mean) / std`` over the classes.

    A student whose logits are the teacher's times a positive number, plus another number, costs
    nothing: a small student need not reach the teacher's confidence, only its order and spacing.

    Args:
        student: logits ``(N, C)``, C > 2.
        teacher: logits ``(N, C)``; no gradient flows into them.
        temperature: of the softmax behind the z-scores; the source takes 2.

    Source: Sun et al., "Logit Standardization in Knowledge Distillation", CVPR 2024, arXiv
    2403.01427, section 4. As in the authors' code the standard deviation is the unbiased one.
    """
    return kl_loss(_z_scores(student), _z_scores(teacher), temperature)


def _z_scores(logits: Tensor) -> Tensor:
    centred = logits - logits.mean(-1, keepdim=True)
    return centred / (logits.std(-1, keepdim=True) + 1e-7)
