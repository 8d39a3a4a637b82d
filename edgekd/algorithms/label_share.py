"""The share of labels in repeated self-distillation, by ridge regression on fixed features.

Borup and Andersen, NeurIPS 2021, arXiv 2102.13088, give the best share for kernel ridge regression
in closed form, and estimate it for deep networks without a grid. Here the kernel is the linear one
of the teacher's last features: our reading of that estimate, which we could not compare with the
paper's own choice of a kernel for networks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from edgekd.algorithms.repeated_distillation import best_label_share

RIDGES = tuple(10.0**power for power in range(-5, 2))  # times the mean eigenvalue


@dataclass(frozen=True)
class Share:
    """The best share in [0, 1], and its standard error; infinite where every share is as good."""

    best: float
    error: float


def probe_label_share(
    features: Tensor, labels: Tensor, answers: Tensor, held_out: Tensor, truth: Tensor
) -> Share:
    """Return the share a of labels with which held-out samples are predicted best.

    Two ridge regressions are fitted on ``features``, one to ``labels`` and one to ``answers``;
    their predictions for ``held_out`` go into ``best_label_share``. Both have an intercept, and the
    ridge of ``RIDGES`` with which labels alone are predicted best. The share is the slope of a
    regression through the origin; its error is the one that allows for unlike samples (White,
    Econometrica 1980), before the share is cut off at 0 and 1.

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
    return Share(
        best_label_share(from_labels, from_answers, truth), _error(from_labels, from_answers, truth)
    )


def _error(from_labels: Tensor, from_answers: Tensor, truth: Tensor) -> float:
    lift = from_labels - from_answers
    energy = float(lift.square().sum())
    if energy == 0:
        return math.inf
    slope = float(((truth - from_answers) * lift).sum()) / energy
    scores = ((truth - from_answers - slope * lift) * lift).sum(1)
    return math.sqrt(float(scores.square().sum())) / energy
