"""Distillation of the teacher's ranking of the classes, with the right one in front."""

from __future__ import annotations

import torch
from torch import Tensor

from edgekd.algorithms.cross_entropy import label_mask, matched

NEEDS = frozenset({"classes", "labels"})


def plackett_luce_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    labels: Tensor | None = None,
    temperature: float = 1.0,
    ignore_index: int = -1,
) -> Tensor:
    """Return the weighted negative Plackett-Luce likelihood of the teacher's order of classes.

    Needs class logits and labels. With pi = the label, then all other classes by falling teacher
    logit, and a = softmax(t / T): ``sum_k a[pi_k] (logsumexp_{j >= k} s[pi_j] - s[pi_k])``, mean
    over the batch. It stands for cross-entropy and distillation at once (weight 1, no label loss
    beside it): all weight on the label gives the label's cross-entropy. It is convex in s.

    Args:
        student_logits: ``(N, C)``. They are never divided by T, and there is no factor T^2.
        teacher_logits: ``(N, C)``; no gradient flows into them. Equal ones keep their order.
        labels: classes ``(N,)``, int64. A sample without a label has the teacher's own order (our
            choice; the source has labels throughout), and so do all of them for None.
        temperature: T > 0 of the weights. The source's listing has 1, its CIFAR-100 runs 4.
        ignore_index: the label of samples without one.

    Source: Bassam et al., "PLD: A Choice-Theoretic List-Wise Knowledge Distillation", NeurIPS
    2025, arXiv 2506.12542, sections 3 to 5 and appendix C. A sample that the teacher has wrong
    weighs less in its label. Logits that are standardised first made it slightly worse
    (appendix F).
    """
    student, teacher = matched(student_logits, teacher_logits)
    ranked = teacher
    if labels is not None:
        first = label_mask(labels, teacher.shape[-1], ignore_index=ignore_index)
        ranked = teacher.masked_fill(first, torch.inf)
    order = ranked.argsort(dim=-1, descending=True, stable=True)
    weights = (teacher / temperature).softmax(-1).gather(-1, order)
    scores = student.gather(-1, order)
    remaining = scores.flip(-1).logcumsumexp(-1).flip(-1)
    return (weights * (remaining - scores)).sum(-1).mean()
