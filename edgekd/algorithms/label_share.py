"""The share of labels in repeated self-distillation, by ridge regression on fixed features.

Borup and Andersen, NeurIPS 2021, arXiv 2102.13088, give the best share for kernel ridge regression
in closed form, and estimate it for deep networks without a grid. Here the kernel is the linear one
of the teacher's last features: our reading of that estimate, which we could not compare with the
paper's own choice of a kernel for networks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgekd.algorithms.repeated_distillation import best_label_share

RIDGES = tuple(10.0**power for power in range(-5, 2))  # times the mean eigenvalue


def probe_label_share(
    features: Tensor, labels: Tensor, answers: Tensor, held_out: Tensor, truth: Tensor
) -> float:
    """Return the share a in [0, 1] of labels with which held-out samples are predicted best.

    Two ridge regressions are fitted on ``features``, one to ``labels`` and one to ``answers``;
    their predictions for ``held_out`` go into ``best_label_share``. Both have an intercept, and the
    ridge of ``RIDGES`` with which labels alone are predicted best.

    Args:
        features: of training samples, ``(N, D)``.
        labels: of these, as vectors, ``(N, C)``.
        answers: the teacher's probabilities for these, ``(N, C)``.
        held_out: features of other samples, ``(M, D)``.
        truth: their labels, ``(M, C)``.
    """
    features, held_out, truth = features.double(), held_out.double(), truth.double()
    middle, count = features.mean(0), labels.shape[1]
    centred = features - middle
    both = torch.cat((labels.double(), answers.double()), 1)
    level = both.mean(0)
    gram = centred.T @ centred
    moment = centred.T @ (both - level)
    scale = gram.diagonal().mean().clamp_min(1e-12)
    eye = torch.eye(len(gram), dtype=gram.dtype)
    found = []
    for ridge in RIDGES:
        weight = torch.linalg.solve(gram + ridge * scale * eye, moment)
        guess = (held_out - middle) @ weight + level
        found.append((guess[:, :count], guess[:, count:]))
    from_labels, from_answers = min(found, key=lambda pair: float((pair[0] - truth).square().sum()))
    return best_label_share(from_labels, from_answers, truth)
