"""Distillation without labels by a divergence that is the same in both directions."""

from __future__ import annotations

from torch import Tensor

from edgekd.algorithms.cross_entropy import log_probabilities, matched

NEEDS = frozenset({"classes"})


def ssld_loss(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0
) -> Tensor:
    """Return ``T^2 (KL(q || p) + KL(p || q)) / 2``, mean over the batch.

    Needs class logits. p = softmax(s / T), q = softmax(t / T). Near equality it is KL itself. It
    has no upper bound: paper and code call it Jensen-Shannon, but it is half of Jeffreys'
    divergence.

    Args:
        student_logits: ``(N, C)``.
        teacher_logits: ``(N, C)``; no gradient flows into them.
        temperature: T > 0; 1 in the source, which so has no T^2.

    Source: Cui et al., "Beyond Self-Supervision: A Simple Yet Effective Network Distillation
    Alternative to Improve Backbones", arXiv 2103.05959. The weight is 1, without labels and
    without label smoothing, on labelled and selected unlabelled images alike.
    """
    student, teacher = matched(student_logits, teacher_logits)
    log_p, log_q = log_probabilities(student, temperature), log_probabilities(teacher, temperature)
    jeffreys = ((log_q.exp() - log_p.exp()) * (log_q - log_p)).sum(-1)
    return jeffreys.mean() * (0.5 * temperature**2)
