"""Distillation on a few stored probabilities of the teacher, made trustworthy first.

Shum et al., "FIRST: Teach A Reliable Large Language Model Through Efficient Trustworthy
Distillation", EMNLP 2024, arXiv 2408.12168.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from edgekd.algorithms.cross_entropy import log_probabilities
from edgekd.algorithms.precision import wide

NEEDS = frozenset({"classes"})

Normalize = Literal["linear", "softmax"]
_FLOOR = 1e-6  # of the linear form, as in the released code


def smoothed_top(probabilities: Tensor, smoothing: float = 0.1) -> Tensor:
    """Return stored probabilities with some of the first given to the others: sum unchanged.

    Args:
        probabilities: of the k likeliest classes ``(N, k)``, falling, k > 1.
        smoothing: taken from the first, at most so much that it stays the largest; 0.1 in the
            paper.

    The released code does this to logarithms, and to the student's as well; here it is done to the
    teacher's probabilities, as the paper says.
    """
    stored = wide(probabilities.detach())
    others = stored.shape[-1] - 1
    # first - d >= second + d / (k - 1)
    room = (stored[..., :1] - stored[..., 1:2]) * others / (others + 1)
    moved = room.clamp_max(smoothing)
    return torch.cat([stored[..., :1] - moved, stored[..., 1:] + moved / others], dim=-1)


def first_loss(
    student_logits: Tensor,
    probabilities: Tensor,
    indices: Tensor,
    *,
    normalize: Normalize = "linear",
    temperature: float = 1.0,
    rest: bool = False,
) -> Tensor:
    """Return ``KL(q' || p')`` on the stored classes, mean over the batch.

    Needs class logits; of the teacher only its k likeliest classes (a stored or a foreign one). p
    is the student's softmax over all classes, taken at those k; q are the teacher's probabilities.
    Both become distributions over the k: ``linear`` divides by their sum, ``softmax`` takes
    exp(p / T) over its sum, a softmax of probabilities and not of logits. That one is flat: at T =
    1 no entry is more than e times another.

    ``linear`` leaves free how much probability the student has outside the k, unless ``rest`` makes
    it an entry of its own; ``edgekd.algorithms.top_k_kl`` is that with logits.

    Args:
        student_logits: ``(N, C)``.
        probabilities: the teacher's of the k classes ``(N, k)``; no gradient flows into them.
        indices: which classes they are, ``(N, k)``, int64.
        normalize: the released code has ``softmax``; ours is ``linear``, for the reason above.
        temperature: T > 0 of ``softmax``, for both sides; the paper tunes the teacher's on
            held-out samples.
        rest: all other classes as one further entry.

    The paper's sum is over tokens and divided by sequences; this is the mean over rows.
    """
    stored = wide(probabilities.detach())
    found = log_probabilities(student_logits).gather(-1, indices).exp()
    if rest:
        stored, found = _with_rest(stored), _with_rest(found)
    if normalize == "linear":
        log_q, log_p = (
            (x + _FLOOR).log() - (x + _FLOOR).sum(-1, keepdim=True).log() for x in (stored, found)
        )
    else:
        log_q, log_p = ((x / temperature).log_softmax(-1) for x in (stored, found))
    return (log_q.exp() * (log_q - log_p)).sum(-1).mean()


def _with_rest(part: Tensor) -> Tensor:
    return torch.cat([part, (1 - part.sum(-1, keepdim=True)).clamp_min(0)], dim=-1)
