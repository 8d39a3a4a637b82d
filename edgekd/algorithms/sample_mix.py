"""How much of the teacher and how much of the label, decided for every sample.

Hu et al., "Less or More From Teacher: Exploiting Trilateral Geometry for Knowledge Distillation"
(TGeo-KD), ICLR 2024, arXiv 2312.15112. The weight comes from a small network that learns on
held-out samples through one step of the student (``edgekd.algorithms.unrolled_step``). In the
released toy code its gradient is cut, so it never learns, and softmax is taken twice; both are
put right here.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.algorithms.cross_entropy import label_mask, log_probabilities, matched
from edgekd.algorithms.precision import wide

NEEDS = frozenset({"classes", "labels"})


class SampleMix(nn.Module):
    """The network that gives every sample its share of the teacher, in (0, 1).

    Its input is made of four vectors of probabilities: the student's S, the teacher's P, the
    label's G and the teacher's mean M for that class; themselves and the squared differences
    M-S, G-S, P-S, P-G, M-G (the released code's form; the paper has edges and angles). Nothing of
    it has a gradient but the network's own weights. It is not exported.

    Args:
        classes: C. The input has 9 C values.
        hidden: widths of the two hidden layers; 32 and 16 in the released code.
    """

    def __init__(self, classes: int, *, hidden: tuple[int, int] = (32, 16)) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(9 * classes, hidden[0]),
            nn.LeakyReLU(),
            nn.Linear(hidden[0], hidden[1]),
            nn.LeakyReLU(),
            nn.Linear(hidden[1], 1),
        )

    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, means: Tensor
    ) -> Tensor:
        """Return the teacher's share ``(N,)``.

        Args:
            student_logits: ``(N, C)``.
            teacher_logits: ``(N, C)``.
            labels: classes ``(N,)``; a sample with -1 has zeros for G and the teacher's P for M.
            means: ``edgekd.algorithms.class_means`` of the teacher, ``(C, C)``.
        """
        found = log_probabilities(student_logits.detach()).exp()
        taught = log_probabilities(teacher_logits.detach()).exp()
        truth = label_mask(labels, found.shape[-1]).to(found.dtype)
        typical = torch.where((labels >= 0)[:, None], means.to(found.dtype)[labels], taught)
        pairs = ((typical, found), (truth, found), (taught, found), (taught, truth))
        squares = [(a - b).square() for a, b in (*pairs, (typical, truth))]
        share: Tensor = self.layers(torch.cat([found, taught, truth, typical, *squares], dim=-1))
        return share.squeeze(-1).sigmoid()


def label_trust(teacher_logits: Tensor, labels: Tensor, *, ignore_index: int = -1) -> Tensor:
    """Return the teacher's probability of the label ``(N,)``: a share without a network.

    The teacher counts as far as it is right; 1 for a sample without a label. This is our own
    simpler form, from no paper; no gradient flows into the teacher.
    """
    probabilities = log_probabilities(teacher_logits.detach()).exp()
    right = label_mask(labels, probabilities.shape[-1], ignore_index=ignore_index)
    return torch.where(labels != ignore_index, (probabilities * right).sum(-1), 1.0)


def sample_mix_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    labels: Tensor,
    share: Tensor,
    temperature: float = 1.5,
    ignore_index: int = -1,
) -> Tensor:
    """Return ``a T^2 KL(q || p) + (1 - a) CE(y, s)``, mean over the batch.

    Needs class logits and labels. p = softmax(s / T), q = softmax(t / T). It stands for label
    loss and distillation at once (weight 1).

    Args:
        student_logits: ``(N, C)``.
        teacher_logits: ``(N, C)``; no gradient flows into them.
        labels: classes ``(N,)``, int64.
        share: a in [0, 1] for every sample ``(N,)``, from ``SampleMix`` or ``label_trust``. Give
            it detached while the student learns. A sample without a label has 1 whatever it is.
        temperature: T > 0; 1.5 in the released toy code.
        ignore_index: the label of samples without one.
    """
    student, teacher = matched(student_logits, teacher_logits)
    log_p, log_q = log_probabilities(student, temperature), log_probabilities(teacher, temperature)
    divergence = (log_q.exp() * (log_q - log_p)).sum(-1) * temperature**2
    wrong = F.cross_entropy(student, labels, reduction="none", ignore_index=ignore_index)
    share = torch.where(labels != ignore_index, wide(share), 1.0)
    return (share * divergence + (1 - share) * wrong).mean()
