"""Distillation by raising a lower bound on what a student's feature tells about the teacher's.

The bound: Poole et al., "On Variational Bounds of Mutual Information", ICML 2019, arXiv
1905.06922, section 2.3 (I_alpha). As a loss: He et al., "Distiller", EMNLP 2021 industry workshop,
arXiv 2109.11105 (MI-alpha).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from edgekd.algorithms.feature_shapes import pooled
from edgekd.algorithms.precision import wide

NEEDS = frozenset({"pooled"})


def interpolated_bound(scores: Tensor, log_baseline: Tensor, *, alpha: float) -> Tensor:
    """Return a lower bound on mutual information from a batch of pairs, in nats; a scalar.

    ``m_ij = log(alpha mean_{k != j} exp(f_ik) + (1 - alpha) exp(b_i))``; the bound is
    ``1 + mean_{i != j}(f_ii - m_ij) - mean_{i != j} exp(f_ij - m_ii)``. With alpha 1 it is InfoNCE:
    of low variance, and never above log(N - 1). With alpha 0 it is the bound of
    Nguyen, Wainwright & Jordan with a learned baseline: unbounded, and of high variance.

    Args:
        scores: f ``(N, N)``, float; f_ij of student i and teacher j. N >= 3.
        log_baseline: b ``(N,)``, of each row's own pair.
        alpha: in [0, 1].

    Raises ValueError for another alpha or fewer than three pairs.

    As in the released code of both sources, the joint term averages over all columns j but the
    row's own, and alpha weighs the InfoNCE part (a docstring in it has alpha the other way round).
    """
    count = len(scores)
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is between 0 and 1, not {alpha:g}")
    if scores.shape != (count, count) or count < 3:
        raise ValueError("the bound needs a square table of scores of three samples or more")
    scores, log_baseline = wide(scores), wide(log_baseline)
    baseline = log_baseline[:, None].expand_as(scores)
    if alpha == 1:
        mixed = _log_mean_without(scores)
    elif alpha == 0:
        mixed = baseline
    else:
        learned = baseline + math.log1p(-alpha)
        mixed = torch.logaddexp(_log_mean_without(scores) + math.log(alpha), learned)
    others = ~torch.eye(count, dtype=torch.bool, device=scores.device)
    joint = (scores.diagonal()[:, None] - mixed)[others].mean()
    marginal = (scores - mixed.diagonal()[:, None])[others].logsumexp(0)
    return 1 + joint - (marginal - math.log(count * (count - 1))).exp()


class MutualInformationLoss(nn.Module):
    """The bound's negative, with the two critics and the baseline that make its scores.

    Needs a feature with a vector for each sample; the widths may differ. The critics learn with the
    student, by the same loss.

    Args:
        student_channels: C of the student's feature.
        teacher_channels: C of the teacher's.
        alpha: 1 for InfoNCE, 0 for the unbounded form; 0.5 in the authors' code.
        hidden: width of the critics' two hidden layers; 512 there.
        out: width in which student and teacher meet; 16 there.

    The authors flatten the tokens or average what the critic makes of them; here features are
    averaged before. Ours as well: features go through a layer norm first, since exp of a score
    overflows for features of any scale.
    """

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        *,
        alpha: float = 0.5,
        hidden: int = 512,
        out: int = 16,
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.student_critic = _critic(student_channels, hidden, out)
        self.teacher_critic = _critic(teacher_channels, hidden, out)
        self.baseline = _critic(teacher_channels, hidden, 1)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the negative bound, a scalar; it falls below 0 as the student learns.

        Args:
            student: ``(N, C)``, ``(N, T, C)`` or ``(N, C, H, W)``; the latter are averaged. N >= 3.
            teacher: the same with another C; no gradient flows into it.

        Raises ValueError for fewer than three samples.
        """
        own, other = pooled(wide(student)), pooled(wide(teacher.detach()))
        scores = self.student_critic(own) @ self.teacher_critic(other).T
        log_baseline = self.baseline(other).squeeze(1)
        return -interpolated_bound(scores, log_baseline, alpha=self.alpha)


def _critic(channels: int, hidden: int, out: int) -> nn.Module:
    return nn.Sequential(
        nn.LayerNorm(channels),
        nn.Linear(channels, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, out),
    )


def _log_mean_without(scores: Tensor) -> Tensor:
    """Return for i, j the log of the mean of exp over row i without column j, ``(N, N)``.

    What lies before column j and what lies behind it, added: no difference, so nothing cancels.
    """
    nothing = scores.new_full((len(scores), 1), -torch.inf)
    before = torch.cat([nothing, scores[:, :-1].logcumsumexp(1)], 1)
    behind = torch.cat([scores[:, 1:].flip(1).logcumsumexp(1).flip(1), nothing], 1)
    return torch.logaddexp(before, behind) - math.log(scores.shape[1] - 1)
