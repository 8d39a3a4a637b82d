"""Distillation that keeps what a former model has right: against negative flips.

A negative flip is a sample that the former model had right and the new one has wrong. Ricci et
al., "Margin Preserving Training", AAAI 2026, arXiv 2511.08322, for new models with more classes;
without new classes it is the focal distillation of Yan et al., "Positive-Congruent Training",
CVPR 2021, arXiv 2011.09161.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from edgekd.algorithms.cross_entropy import (
    label_cross_entropy,
    log_probabilities,
    matched,
)
from edgekd.algorithms.precision import wide

NEEDS = frozenset({"classes", "labels"})


def focal_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    labels: Tensor,
    base: float = 1.0,
    focus: float = 5.0,
    temperature: float = 5.0,
    form: Literal["kl", "logits"] = "kl",
    ignore_index: int = -1,
) -> Tensor:
    """Return ``w KL(softmax(r / T) || softmax(s / T))``, w larger where the reference is right.

    Needs class logits and labels. w = base + focus * [argmax r = y]; a sample without a label has
    w = base. Mean over the batch, no factor T^2. With ``form="logits"`` the divergence is half of
    the squared difference of the logits, mean over the classes.

    For an update of a deployed model the reference is the former release: the student learns most
    from it where flipping would hurt. It goes with a label loss of weight 1.

    Args:
        student_logits: ``(N, C)``, the reference's classes only.
        teacher_logits: the reference's ``(N, C)``; no gradient flows into them.
        labels: classes ``(N,)``, int64.
        base: weight of every sample; 1 in the source.
        focus: added where the reference is right; 5 in the source.
        temperature: T > 0 of ``kl``; 5 in the source (a default of 100 stands in the released
            function, which its script overrides).
        form: ``kl`` or ``logits``; the source gives the second one a weight of 0.4.
        ignore_index: the label of samples without one.
    """
    student, reference = matched(student_logits, teacher_logits)
    right = (reference.argmax(-1) == labels) & (labels != ignore_index)
    weights = base + focus * right
    if form == "logits":
        each = (student - reference).square().mean(-1) / 2
    else:
        log_p = log_probabilities(student, temperature)
        log_r = log_probabilities(reference, temperature)
        each = (log_r.exp() * (log_r - log_p)).sum(-1)
    return (weights * each).mean()


def margin_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    new_classes: Sequence[int] = (),
    bias: float = 4.0,
    ignore_index: int = -1,
) -> Tensor:
    """Return the label's cross-entropy with ``bias`` added to the logits of new classes.

    Old classes must then win by more than the bias. It is part of the loss only: neither the
    distillation nor the deployed model has it. Without new classes it is the cross-entropy.

    Args:
        logits: ``(N, C)``.
        labels: classes ``(N,)``, int64.
        new_classes: those that the former model does not know.
        bias: 0 and up; the source tries 0, 1, 2 and 4 and takes 4.
        ignore_index: the label of samples without one; mean over the others.
    """
    shift = torch.zeros(logits.shape[-1], dtype=wide(logits).dtype, device=logits.device)
    shift[list(new_classes)] = bias
    return label_cross_entropy(wide(logits) + shift, labels, ignore_index=ignore_index)


def margin_preserving_loss(
    student_logits: Tensor,
    former_logits: Tensor,
    *,
    labels: Tensor,
    teacher_logits: Tensor | None = None,
    bias: float = 4.0,
    base: float = 1.0,
    focus: float = 5.0,
    temperature: float = 5.0,
    form: Literal["kl", "logits"] = "kl",
    ignore_index: int = -1,
) -> Tensor:
    """Return ``margin_cross_entropy`` plus ``focal_loss`` of the former model and of a teacher.

    Needs class logits and labels. It stands for label loss and distillation at once (weight 1).

    Args:
        student_logits: ``(N, C)``; the former model's classes come first.
        former_logits: of the former release ``(N, C_old)``, C_old <= C; no gradient flows into
            them.
        labels: classes ``(N,)``, int64.
        teacher_logits: of a model that was trained for all classes ``(N, C)``; None for none.
        bias: see ``margin_cross_entropy``; it does nothing if C_old = C.
        base: see ``focal_loss``, and so the others.
        focus: of ``focal_loss``.
        temperature: of ``focal_loss``.
        form: ``kl``, or ``logits``, which gives both distillation terms a weight of 0.4.
        ignore_index: the label of samples without one.

    Raises ValueError if the former model has more classes than the student.
    """
    old, classes = former_logits.shape[-1], student_logits.shape[-1]
    if old > classes:
        raise ValueError(f"the former model has {old} classes, the student only {classes}")

    def focal(student: Tensor, reference: Tensor) -> Tensor:
        return focal_loss(
            student,
            reference,
            labels=labels,
            base=base,
            focus=focus,
            temperature=temperature,
            form=form,
            ignore_index=ignore_index,
        )

    kept = focal(student_logits[:, :old], former_logits)
    if teacher_logits is not None:
        kept = kept + focal(student_logits, teacher_logits)
    new = range(old, classes)
    wrong = margin_cross_entropy(
        student_logits, labels, new_classes=new, bias=bias, ignore_index=ignore_index
    )
    return wrong + (kept * 0.4 if form == "logits" else kept)
