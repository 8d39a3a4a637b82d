"""Fine-tuning of a teacher so that its outputs differ more within a class: it then teaches more."""

from __future__ import annotations

from torch import Tensor

from edgekd.algorithms.cross_entropy import (
    label_cross_entropy,
    log_probabilities,
)
from edgekd.algorithms.precision import wide

NEEDS = frozenset({"classes", "labels"})


def conditional_information(
    logits: Tensor, labels: Tensor, means: Tensor, *, ignore_index: int = -1
) -> Tensor:
    """Return ``KL(softmax(t) || Q_y)``, mean over samples with a label; 0 without any.

    With the exact class means this is the conditional mutual information of input and output given
    the class: 0 where all samples of a class have one output.

    Args:
        logits: the teacher's ``(N, C)``. Gradients flow into them.
        labels: classes ``(N,)``, int64.
        means: Q, ``edgekd.algorithms.class_means`` over the training data, ``(C, C)``; no gradient
            flows into them. Entries below 1e-8 count as 1e-8.
        ignore_index: the label of samples without one.
    """
    labelled = labels != ignore_index
    log_q = wide(means.detach()).clamp_min(1e-8).log()[labels.where(labelled, 0)]
    log_p = log_probabilities(logits)
    each = (log_p.exp() * (log_p - log_q)).sum(-1)
    return each.masked_fill(~labelled, 0.0).sum() / labelled.sum().clamp_min(1)


def mcmi_loss(
    logits: Tensor,
    labels: Tensor,
    means: Tensor,
    *,
    weight: float = 0.1,
    ignore_index: int = -1,
) -> Tensor:
    """Return ``CE(y, t) - weight * conditional_information``, for a teacher that is fine-tuned.

    Needs class logits and labels. It is no loss of a student: what comes out is a teacher for any
    other loss here. The second term has no lower bound, so watch the training's accuracy.

    Args:
        logits: the teacher's ``(N, C)``.
        labels: classes ``(N,)``, int64.
        means: class means of the teacher's probabilities, refreshed every epoch (the released code
            takes them once, before).
        weight: the paper has one for each pair of networks; our default is not verified.
        ignore_index: the label of samples without one.

    Source: Ye et al., "Bayes Conditional Distribution Estimation for Knowledge Distillation Based
    on Conditional Mutual Information", ICLR 2024, arXiv 2401.08732. There: 20 epochs from a
    trained teacher at half of the usual learning rate.
    """
    information = conditional_information(logits, labels, means, ignore_index=ignore_index)
    return label_cross_entropy(logits, labels, ignore_index=ignore_index) - weight * information
