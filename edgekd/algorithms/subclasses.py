"""More classes for a student to tell apart than the labels have, from the teacher's embeddings.

Loo et al., "Linear Projections of Teacher Embeddings for Few-Class Distillation" (LELP), arXiv
2409.20449: with few classes the teacher's probabilities carry little, so every class is split
along the directions in which the teacher's embeddings of it vary. No code is released. The steps
of ``fit_subclasses`` are the paper's as reviews of it state them; the scaling, the form of the
targets and the defaults are our reading, not verified.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from edgekd.algorithms.cross_entropy import (
    log_probabilities,
    soft_cross_entropy,
)
from edgekd.algorithms.precision import wide

NEEDS = frozenset({"classes", "labels", "pooled"})


class SubclassDirections(NamedTuple):
    """What splits the classes: fitted once, then constant."""

    means: Tensor
    """Mean embedding of every class, ``(C, D)``, float32."""
    directions: Tensor
    """S directions for every class, ``(C, D, S)``, float32: projections have variance 1."""


@torch.no_grad()
def fit_subclasses(
    embeddings: Tensor,
    labels: Tensor,
    output_weight: Tensor,
    *,
    subclasses: int,
    generator: torch.Generator,
    ignore_index: int = -1,
) -> SubclassDirections:
    """Return the directions that split every class, from the teacher's embeddings.

    What the teacher's output layer sees is taken out of them (the logits have it already); of the
    rest, the S main components of every class are turned by a random rotation, so that all carry
    as much in expectation, and scaled to variance 1.

    Args:
        embeddings: the teacher's inputs of its last layer ``(n, D)``.
        labels: classes ``(n,)``, int64.
        output_weight: of the teacher's last layer, ``(C, D)``.
        subclasses: S, 1 and up.
        generator: of the rotation, on the CPU.
        ignore_index: the label of samples without one, which are left out.

    Raises ValueError where D is too small for S more directions, or a class has S samples or
    fewer.
    """
    features, weight = embeddings.double(), output_weight.detach().double()
    seen = torch.linalg.matrix_rank(weight)
    room = features.shape[1] - int(seen)
    if not 1 <= subclasses <= room:
        raise ValueError(
            f"embeddings of {features.shape[1]} values leave {max(room, 0)} directions that the "
            f"{weight.shape[0]} classes do not use; {subclasses} subclasses do not fit"
        )
    features = features - features @ torch.linalg.pinv(weight) @ weight
    gaussian = torch.randn(subclasses, subclasses, generator=generator, dtype=torch.float64)
    rotation = torch.linalg.qr(gaussian).Q.to(features.device)
    means, directions = [], []
    for index in range(weight.shape[0]):
        chosen = (labels == index) & (labels != ignore_index)
        count = int(chosen.sum())
        if count <= subclasses:
            raise ValueError(f"class {index} has {count} samples, too few for {subclasses} parts")
        centred = features[chosen] - features[chosen].mean(0)
        basis = torch.linalg.svd(centred, full_matrices=False).Vh[:subclasses].T
        basis = basis @ rotation
        spread = (centred @ basis).std(0)
        means.append(embeddings[chosen].double().mean(0))
        directions.append(basis / spread.clamp_min(1e-6))
    return SubclassDirections(torch.stack(means).float(), torch.stack(directions).float())


@torch.no_grad()
def subclass_targets(
    split: SubclassDirections,
    embeddings: Tensor,
    teacher_logits: Tensor,
    *,
    sharpness: float = 1.0,
    temperature: float = 1.0,
) -> Tensor:
    """Return the probabilities ``(N, C * S)`` of all subclasses, those of a class side by side.

    ``softmax(t / T)_c softmax_s(sharpness * a_cs)`` with a the projections of the embedding: the
    sum over a class is the teacher's probability of it.

    Args:
        split: from ``fit_subclasses``.
        embeddings: the teacher's ``(N, D)``.
        teacher_logits: ``(N, C)``.
        sharpness: 0 and up; 0 spreads every class evenly.
        temperature: T > 0 of the classes.
    """
    centred = wide(embeddings)[:, None, :] - split.means.to(embeddings.device)
    directions = split.directions.to(embeddings.device, centred.dtype)
    projections = torch.einsum("ncd,cds->ncs", centred, directions)
    within = (sharpness * projections).softmax(-1)
    classes = log_probabilities(teacher_logits, temperature).exp()
    return (classes[:, :, None] * within).flatten(1)


def subclass_loss(student_logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy over all subclasses, mean over the batch.

    Needs a student with S outputs for every class, the teacher's pooled embeddings, and labels
    for the fit. The weight is 1, without a label loss (arXiv 2409.20449).

    Args:
        student_logits: ``(N, C * S)``, subclasses of a class side by side.
        targets: ``subclass_targets``; no gradient flows into them.

    Raises ValueError for unequal shapes.
    """
    if student_logits.shape != targets.shape:
        found, expected = tuple(student_logits.shape), tuple(targets.shape)
        raise ValueError(f"logits {found} are not those of the subclasses {expected}")
    return soft_cross_entropy(student_logits, targets)


def class_logits(student_logits: Tensor, subclasses: int) -> Tensor:
    """Return ``(N, C)`` logits from ``(N, C * S)``: the logarithm of a class's summed exponentials.

    Their softmax is the sum of the subclasses' probabilities. It stays in the exported model,
    whose head is S times wider: a sum of exponentials folds into no linear layer.
    """
    count = student_logits.shape[-1] // subclasses
    grouped = student_logits.reshape(*student_logits.shape[:-1], count, subclasses)
    return grouped.logsumexp(-1)
