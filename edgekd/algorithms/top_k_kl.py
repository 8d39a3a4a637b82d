"""Distillation on the classes that the teacher finds likely."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.algorithms.kd_loss import kl_loss

NEEDS = frozenset({"classes"})


def top_k_kl(student: Tensor, teacher: Tensor, temperature: float, k: int) -> Tensor:
    """Return ``kl_loss`` over the teacher's ``k`` likeliest classes and one class for the rest.

    What the student does within the rest is free, which a student of few bits may need. The rest
    stays in the sum as one class: renormalising the k probabilities alone would leave free how
    much of the whole they are. It is at most ``kl_loss``, and equal to it from ``k = C - 1``.

    Args:
        student: logits ``(N, C)``.
        teacher: logits ``(N, C)``; no gradient flows into them.
        temperature: T > 0.
        k: number of classes, 1 and up.

    Source: Shum et al., "FIRST", EMNLP 2024, arXiv 2408.12168, with the probability of all other
    entries as a further one. Anshumann et al., ACL 2025, arXiv 2503.16870, show that the
    renormalised form is a biased estimate of the full loss.
    """
    if k >= student.shape[-1] - 1:
        return kl_loss(student, teacher, temperature)
    log_p = F.log_softmax(student / temperature, dim=-1)
    log_q = F.log_softmax(teacher.detach() / temperature, dim=-1)
    likeliest = log_q.topk(k, dim=-1).indices
    log_p, log_q = _lump(log_p, likeliest), _lump(log_q, likeliest)
    return F.kl_div(log_p, log_q, reduction="batchmean", log_target=True) * temperature**2


def _lump(log_p: Tensor, kept: Tensor) -> Tensor:
    """Return the kept log probabilities ``(N, k)`` and, behind them, the log of what is left."""
    rest = log_p.scatter(-1, kept, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([log_p.gather(-1, kept), rest], dim=-1)
