"""A small network that tells a student's logits from its teachers', and what it teaches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from edgekd.algorithms.precision import wide

NEEDS = frozenset({"classes"})


class LogitDiscriminator(nn.Module):
    """Three linear layers from logits ``(N, C)`` to two scores: of students and of teachers.

    It is not exported.

    Args:
        classes: C.
        reduction: each hidden layer is narrower by this factor; 8 in the source. No layer gets
            narrower than 2.

    Source: Shen and Savvides, "MEAL V2", arXiv 2009.08453. The released code has a ReLU behind
    the last layer too, where no score can be negative; it is left out here.
    """

    def __init__(self, classes: int, *, reduction: int = 8) -> None:
        super().__init__()
        first = max(2, classes // reduction)
        second = max(2, first // reduction)
        self.layers = nn.Sequential(
            nn.Linear(classes, first),
            nn.ReLU(),
            nn.Linear(first, second),
            nn.ReLU(),
            nn.Linear(second, 2),
        )

    def forward(self, logits: Tensor) -> Tensor:
        """Return the two scores ``(N, 2)``, before the sigmoid."""
        scores: Tensor = self.layers(logits)
        return scores


def discriminator_loss(
    discriminator: nn.Module, student_logits: Tensor, teacher_logits: Tensor
) -> Tensor:
    """Return the discriminator's own loss: binary cross-entropy, mean over rows and both scores.

    It concerns the discriminator only: no gradient flows into either logits.

    Args:
        discriminator: a ``LogitDiscriminator``.
        student_logits: ``(N, C)``, which are to score (1, 0).
        teacher_logits: ``(N, C)``, which are to score (0, 1): the mean of the teachers' logits.
    """
    rows = torch.cat([wide(student_logits.detach()), wide(teacher_logits.detach())])
    truth = torch.zeros(len(rows), 2, dtype=rows.dtype, device=rows.device)
    truth[: len(student_logits), 0] = 1
    truth[len(student_logits) :, 1] = 1
    return F.binary_cross_entropy_with_logits(discriminator(rows), truth)


def discriminated_loss(discriminator: nn.Module, student_logits: Tensor) -> Tensor:
    """Return the student's loss: the cost of not being taken for a teacher.

    Needs class logits. It concerns the student only: no gradient flows into the discriminator.

    Args:
        discriminator: a ``LogitDiscriminator``.
        student_logits: ``(N, C)``.

    In the released code of MEAL V2 both networks minimise ``discriminator_loss``, so the student
    learns to be told apart; this is the form that the paper describes. The weight is 0 by default:
    what the term adds to ``meal_loss`` is not verified.
    """
    frozen = {name: weight.detach() for name, weight in discriminator.named_parameters()}
    scores: Tensor = functional_call(discriminator, frozen, (wide(student_logits),))
    truth = torch.zeros_like(scores)
    truth[:, 1] = 1
    return F.binary_cross_entropy_with_logits(scores, truth)
