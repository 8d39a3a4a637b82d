"""Distillation in logit space with the right class stressed, for unlike architectures."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.algorithms.precision import wide

NEEDS = frozenset({"classes", "labels"})


def one_for_all_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    labels: Tensor,
    exponent: float = 1.0,
    temperature: float = 1.0,
    ignore_index: int = -1,
) -> Tensor:
    """Return One-for-All's loss of the student's logits, or of a branch's; mean over the batch.

    Needs classes and labels. With ``p = softmax(t / T)``, ``q = softmax(s / T)`` and M one-hot of
    the label, ``sum_c -[(p_c + M_c)^exponent - M_c] log q_c``; no T^2. With exponent 1 it is the
    cross entropy with the teacher; above 1 the right class weighs more than p, and the others
    less, the less likely they are.

    Args:
        student_logits: ``(N, C)``, also of a ``MapBranch`` or a ``TokenBranch``.
        teacher_logits: ``(N, C)``, the teacher's output; no gradient flows into it.
        labels: ``(N,)``, classes, or ``ignore_index`` where there is none: M is 0 there.
        exponent: 1 and up. The authors' examples have 1.5 for ImageNet and 1 for CIFAR-100.
        temperature: T > 0; 1 in the authors' code.

    Raises ValueError for an exponent below 1, which would make the right class weigh less.

    The total of the source is the labels' cross entropy, this loss of the output, and this loss of
    a branch after each of four stages, each of weight 1.

    Source: Hao et al., "One-for-All", NeurIPS 2023, arXiv 2310.19444, section 3.3, as in the
    authors' code, but through log_softmax, which large logits do not make infinite.
    """
    if exponent < 1:
        raise ValueError(f"the exponent of one-for-all is at least 1, not {exponent:g}")
    log_q = F.log_softmax(wide(student_logits) / temperature, dim=-1)
    p = F.softmax(wide(teacher_logits.detach()) / temperature, dim=-1)
    classes = torch.arange(p.shape[-1], device=p.device)
    known = (labels != ignore_index)[:, None]
    right = ((labels[:, None] == classes) & known).to(p.dtype)
    weights = (p + right).pow(exponent) - right
    return -(weights * log_q).sum(-1).mean()
