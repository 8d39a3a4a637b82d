"""Distillation of how the patches of a whole batch lie to one another.

Zhang et al., "Knowledge Distillation via Token-level Relationship Graph", 2023, arXiv 2306.12442.
Our reading: neither the authors' code nor the paper's formulas could be seen, only a summary of
them. What is ours is said in each function.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.algorithms.contrastive_loss import contrastive_loss
from edgekd.algorithms.precision import wide
from edgekd.algorithms.projector import Projector

NEEDS = frozenset({"tokens"})  # a CNN's map is tokens as well


def neighbourhood_loss(student: Tensor, teacher: Tensor, *, neighbours: int = 8) -> Tensor:
    """Return the divergence of how near each token's neighbours are, mean over tokens.

    Needs tokens at the same places; C may differ. Edges ``A_ij = exp(-|x_i - x_j|^2 / (2 sigma))``
    go from each token i to its nearest neighbours j; the loss is
    ``KL(softmax_j A_t || softmax_j A_s)``.

    Args:
        student: ``(M, C)``.
        teacher: ``(M, C')``; no gradient flows into it.
        neighbours: of each token, below M; 8 is our choice.

    Raises ValueError for too few tokens.

    Ours: the neighbours are the teacher's in both graphs, and only they are in the softmax; sigma
    is each network's mean squared length of an edge, without gradient, so that no feature's scale
    counts.
    """
    if not 1 <= neighbours < len(teacher) or len(student) != len(teacher):
        raise ValueError(f"{len(teacher)} tokens have no {neighbours} neighbours each")
    student, teacher = wide(student), wide(teacher.detach())
    lengths = torch.cdist(teacher, teacher).fill_diagonal_(torch.inf)
    nearest = lengths.topk(neighbours, largest=False).indices
    log_p, log_q = _log_edges(student, nearest), _log_edges(teacher, nearest)
    return F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)


def inner_context_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the squared distance of the tables of similarities within each sample, mean over all.

    Needs as many tokens in both networks; C may differ. ``softmax(F F' / sqrt(C))`` for each
    sample, row by row, and the mean squared error of the two tables.

    Args:
        student: ``(N, T, C)``.
        teacher: ``(N, T, C')``; no gradient flows into it.
    """
    return F.mse_loss(_context(wide(student)), _context(wide(teacher.detach())))


class TokenGraphLoss(nn.Module):
    """The three losses over one batch, with the tokens drawn anew each time.

    ``inner_context_loss``, ``neighbourhood_loss`` and ``contrastive_loss``, weighted and added up.
    The first goes over all tokens of each sample, the others over tokens drawn from the whole
    batch, of which the student's go through a projector before the contrast. The loss on logits is
    not in it.

    Args:
        student_channels: C of the student's tokens.
        teacher_channels: C of the teacher's.
        weights: in that order; 1 each is our choice; the source's were not found.
        tokens: how many are drawn; 256 is our choice. All, if there are fewer.
        neighbours: of each token in the graph.
        temperature: of the contrast. The source lowers it during training, from and to what was
            not found: set the attribute.
    """

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        *,
        weights: Sequence[float] = (1.0, 1.0, 1.0),
        tokens: int = 256,
        neighbours: int = 8,
        temperature: float = 0.1,
    ) -> None:
        super().__init__()
        self.projector = Projector(student_channels, teacher_channels)
        self.weights = tuple(weights)
        self.tokens, self.neighbours, self.temperature = tokens, neighbours, temperature

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the weighted sum, a scalar.

        Args:
            student: ``(N, T, C)``.
            teacher: ``(N, T, C')``, patches of the same places; no gradient flows into it.

        Raises ValueError where the numbers of tokens differ, or are not above ``neighbours``.
        """
        if student.shape[:2] != teacher.shape[:2]:
            raise ValueError("the token graph needs the same samples and tokens in both networks")
        own, other = student.flatten(0, 1), teacher.detach().flatten(0, 1)
        drawn = torch.randperm(len(own), device=own.device)[: self.tokens]
        own, other = own[drawn], other[drawn]
        context, local, whole = self.weights
        contrast = contrastive_loss(self.projector(own), other, temperature=self.temperature)
        return (
            context * inner_context_loss(student, teacher)
            + local * neighbourhood_loss(own, other, neighbours=self.neighbours)
            + whole * contrast
        )


def _log_edges(x: Tensor, nearest: Tensor) -> Tensor:
    squares = (x[:, None] - x[nearest]).square().sum(-1)
    sigma = squares.detach().mean().clamp_min(1e-12)
    return F.log_softmax((-squares / (2 * sigma)).exp(), dim=-1)


def _context(tokens: Tensor) -> Tensor:
    return F.softmax(tokens @ tokens.transpose(1, 2) / math.sqrt(tokens.shape[-1]), dim=-1)
