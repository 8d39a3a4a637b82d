"""A network that teaches its successor, again and again: how much of the labels that needs.

Borup and Andersen, "Even your Teacher Needs Guidance: Ground-Truth Targets Dampen Regularization
Imposed by Self-Distillation", NeurIPS 2021, arXiv 2102.13088. In kernel ridge regression every
generation has a closed form; without labels the solution shrinks to zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edgekd.algorithms.cross_entropy import label_mask, log_probabilities, matched

NEEDS = frozenset({"classes"})


def repeated_distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    labels: Tensor | None = None,
    label_share: float = 0.6,
    ignore_index: int = -1,
) -> Tensor:
    """Return ``a |p - y|^2 + (1 - a) |p - q|^2`` over C, mean over the batch.

    Needs class logits; labels where there are some. p = softmax(s), q = softmax(t), y the label as
    a vector. A sample without a label has the second part alone, with weight 1 (our choice).

    Args:
        student_logits: ``(N, C)``.
        teacher_logits: of the generation before, ``(N, C)``; no gradient flows into them.
        labels: classes ``(N,)``, int64; None for none.
        label_share: a in [0, 1], for example from ``best_label_share``; 0.6 in the released
            example.
        ignore_index: the label of samples without one.
    """
    student, teacher = matched(student_logits, teacher_logits)
    p, q = log_probabilities(student).exp(), log_probabilities(teacher).exp()
    to_teacher = (p - q).square().mean(-1)
    if labels is None:
        return to_teacher.mean()
    truth = label_mask(labels, p.shape[-1], ignore_index=ignore_index).to(p.dtype)
    to_label = (p - truth).square().mean(-1)
    share = label_share * (labels != ignore_index)
    return (share * to_label + (1 - share) * to_teacher).mean()


def best_label_share(from_labels: Tensor, from_teacher: Tensor, truth: Tensor) -> float:
    """Return the share a in [0, 1] of the labels whose mix fits held-out samples best.

    ``<truth - f0, f1 - f0> / |f1 - f0|^2``, with f1 fitted on the labels and f0 on the teacher's
    outputs, both linear in their targets: the mix a f1 + (1 - a) f0 is then the fit on mixed
    targets. The squared error is a parabola in a, so the ends are best where its least is outside.

    Args:
        from_labels: predictions f1 on held-out samples, any shape.
        from_teacher: predictions f0, the same shape.
        truth: of the held-out samples, the same shape.

    1 where both predict the same. Derived from linearity; the paper has an equivalent form, which
    we have not compared word for word.
    """
    lift = from_labels.double() - from_teacher.double()
    energy = lift.square().sum()
    if energy == 0:
        return 1.0
    share = ((truth.double() - from_teacher.double()) * lift).sum() / energy
    return float(share.clamp(0, 1))


def ridge_generations(
    gram: Tensor, targets: Tensor, ridge: float, label_shares: Sequence[float]
) -> list[Tensor]:
    """Return the fitted values of every generation: ``H (a Y + (1 - a) y_before)``, first on Y.

    Args:
        gram: the kernel K ``(n, n)``, symmetric, positive semidefinite. ``H = K (K + ridge I)^-1``.
        targets: Y ``(n, m)``.
        ridge: above 0.
        label_shares: a of every generation.

    Returns ``(n, m)`` tensors, float64.

    Raises ValueError for a ridge that is not above 0.
    """
    if not ridge > 0:
        raise ValueError(f"a ridge is above 0, not {ridge}")
    kernel, truth = gram.double(), targets.double()
    shifted = kernel + ridge * torch.eye(len(kernel), dtype=kernel.dtype, device=kernel.device)
    found, generations = truth, []
    for share in label_shares:
        found = kernel @ torch.linalg.solve(shifted, share * truth + (1 - share) * found)
        generations.append(found)
    return generations


def ridge_limit(gram: Tensor, targets: Tensor, ridge: float, label_share: float) -> Tensor:
    """Return where ``ridge_generations`` end with the same share forever: a ridge of ridge / a.

    Args:
        gram: K ``(n, n)``.
        targets: Y ``(n, m)``.
        ridge: above 0.
        label_share: a; 0 gives zeros.
    """
    if label_share == 0:
        return torch.zeros_like(targets, dtype=torch.float64)
    return ridge_generations(gram, targets, ridge / label_share, [1.0])[0]
