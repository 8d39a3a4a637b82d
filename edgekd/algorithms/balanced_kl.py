"""Forward and reverse divergence at once, weighed by who is less sure of a sample."""

from __future__ import annotations

import torch
from torch import Tensor

from edgekd.algorithms.cross_entropy import log_probabilities, matched

NEEDS = frozenset({"classes"})


def balanced_kl_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 2.0,
    stress: float = 2.0,
) -> Tensor:
    """Return ``T^2 (f KL(q || p) + r KL(p || q))``, mean over the batch.

    Needs class logits. p = softmax(s / T), q = softmax(t / T). Where the student's entropy is
    below the teacher's (it is too sure), f is ``stress``: the forward divergence makes it cover
    what the teacher finds possible. Where it is above, r is: the reverse one makes it decide.
    Everything else weighs 1. The weights have no gradient. This is the student's loss with a
    teacher that does not learn; the label loss comes on top.

    Args:
        student_logits: ``(N, C)``.
        teacher_logits: ``(N, C)``; no gradient flows into them.
        temperature: T > 0.
        stress: the larger weight, 1 for the plain symmetric divergence.

    Source: Amara et al., "BD-KD: Balancing the Divergences for Online Knowledge Distillation",
    arXiv 2212.12965: both divergences, weighed for every sample by the entropy gap. Which of them
    is stressed, the factor 2 and T are our reading, not verified against the paper's equations.
    """
    student, teacher = matched(student_logits, teacher_logits)
    log_p, log_q = log_probabilities(student, temperature), log_probabilities(teacher, temperature)
    p, q = log_p.exp(), log_q.exp()
    with torch.no_grad():
        gap = (q * log_q).sum(-1) - (p * log_p).sum(-1)  # entropy of the student less the teacher's
        forward_weight = 1 + (stress - 1) * (gap < 0)
        reverse_weight = 1 + (stress - 1) * (gap > 0)
    difference = log_q - log_p
    forward, reverse = (q * difference).sum(-1), -(p * difference).sum(-1)
    return (forward_weight * forward + reverse_weight * reverse).mean() * temperature**2
