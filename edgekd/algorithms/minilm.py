"""Distillation of which tokens a transformer relates to which, whatever its width.

Wang et al., "MiniLM", NeurIPS 2020, arXiv 2002.10957, and "MiniLMv2", Findings of ACL 2021, arXiv
2012.15828. The authors released no training code; the formulas are those of the papers as public
re-implementations agree on them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.algorithms.precision import wide

NEEDS = frozenset({"tokens", "attention"})


def minilm_loss(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    *,
    heads: int,
    valid: Tensor | None = None,
) -> Tensor:
    """Return MiniLM's loss of one attention layer: attention distributions and value relations.

    Needs queries, keys and values of an attention layer with as many heads in both networks; their
    widths may differ. ``KL(softmax(Q_t K_t' / sqrt(d)) || softmax(Q_s K_s' / sqrt(d)))`` and the
    same with V V', each a mean over rows, heads and samples, added up.

    Args:
        student: queries, keys, values ``(N, T, C)``, the heads one behind the other in C.
        teacher: the same with another C; no gradient flows into it.
        heads: of both attentions. The source takes the last layer of both networks.
        valid: which tokens count, bool ``(N, T)``. The others are left out as rows and as keys.

    Raises ValueError where tokens, heads or the mask do not fit.

    Source: arXiv 2002.10957, equations 5 to 8 (numbers from memory). No temperature.
    """
    (q, k, v), (q_t, k_t, v_t) = student, teacher
    attention = _divergence((q, k), (q_t, k_t), heads, valid)
    return attention + _divergence((v, v), (v_t, v_t), heads, valid)


def relation_loss(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    *,
    heads: int = 12,
    weights: Sequence[float] = (1 / 3, 1 / 3, 1 / 3),
    valid: Tensor | None = None,
) -> Tensor:
    """Return MiniLMv2's loss of one layer: relations of queries, of keys, of values.

    Needs queries, keys and values of an attention layer; numbers of heads and widths may differ.
    For each M of the three, ``R = softmax(M M' / sqrt(C / heads))`` in ``heads`` relation heads,
    and ``weight * KL(R_t || R_s)``, mean over rows, relation heads and samples.

    Args:
        student: queries, keys, values ``(N, T, C)``, the attention's heads one behind the other
            (``joined_heads``).
        teacher: the same with another C; no gradient flows into it.
        heads: of the relations, a divisor of both C; has nothing to do with the attention's
            heads. More are finer: the source takes 48 for width 768 and 64 for 1024 (memory);
            12 is our choice for small students.
        weights: of queries, keys and values.
        valid: which tokens count, bool ``(N, T)``. The others are left out as rows and as keys.

    Raises ValueError where tokens, heads or the mask do not fit.

    Source: arXiv 2012.15828, section 3.1. The source's teacher layer is the last one of a base
    model and an upper middle one of a large model.
    """
    terms = [
        weight * _divergence((own, own), (other, other), heads, valid)
        for own, other, weight in zip(student, teacher, weights, strict=True)
    ]
    return torch.stack(terms).sum()


def joined_heads(x: Tensor) -> Tensor:
    """Return ``(N, heads, T, d)``, as attention takes it, as ``(N, T, heads * d)``."""
    return x.transpose(1, 2).flatten(2)


def _divergence(
    student: tuple[Tensor, Tensor],
    teacher: tuple[Tensor, Tensor],
    heads: int,
    valid: Tensor | None,
) -> Tensor:
    if student[0].shape[:2] != teacher[0].shape[:2]:
        raise ValueError("relations need the same samples and tokens in both networks")
    if valid is not None and valid.shape != student[0].shape[:2]:
        raise ValueError(f"the mask has the shape {tuple(valid.shape)}, not that of the tokens")
    log_p = _log_relation(student, heads, valid)
    log_q = _log_relation((teacher[0].detach(), teacher[1].detach()), heads, valid)
    rows = F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(-1).mean(1)  # (N, T)
    if valid is None:
        return rows.mean()
    length = valid.sum(1)
    samples = rows.masked_fill(~valid, 0.0).sum(1) / length.clamp_min(1)
    return samples.sum() / (length > 0).sum().clamp_min(1)


def _log_relation(pair: tuple[Tensor, Tensor], heads: int, valid: Tensor | None) -> Tensor:
    """Return log probabilities ``(N, heads, T, T)`` over the last axis."""
    a, b = pair
    if valid is not None:  # padding may hold anything, infinite values too
        a, b = (x.masked_fill(~valid[:, :, None], 0.0) for x in (a, b))
    a, b = (_split(wide(x), heads) for x in (a, b))
    scores = a @ b.transpose(2, 3) / math.sqrt(a.shape[-1])
    if valid is not None:  # finite, so that a row without any valid key has no NaN either
        scores = scores.masked_fill(~valid[:, None, None], -1e9)
    return F.log_softmax(scores, dim=-1)


def _split(x: Tensor, heads: int) -> Tensor:
    if x.shape[-1] % heads:
        raise ValueError(f"a width of {x.shape[-1]} does not split into {heads} heads")
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)
