"""One loss of a ``distill`` stage, built for a pair of networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

Shape = tuple[int, ...]  # of one sample, without the batch axis


@dataclass(frozen=True)
class Side:
    """What a loss may know of one network.

    ``classes`` is 0 where the first output is no class logits. ``features`` are the shapes of the
    tensors that this loss compares: the student's i-th with the teacher's i-th.
    """

    classes: int
    outputs: tuple[Shape, ...]
    features: tuple[Shape, ...] = ()


@dataclass(frozen=True)
class Pairing:
    """The two networks that a loss compares, and the optimiser ``steps`` of the training."""

    student: Side
    teacher: Side
    steps: int


@dataclass(frozen=True)
class Answers:
    """A batch: outputs and features of both networks, and labels (-1: none).

    ``valid`` says which tokens are no padding, bool ``(N, T)``; None where nothing says so.
    """

    outputs: Sequence[Tensor]
    features: Sequence[Tensor]
    teacher_outputs: Sequence[Tensor]
    teacher_features: Sequence[Tensor]
    labels: Tensor | None
    valid: Tensor | None = None

    @property
    def known_labels(self) -> Tensor:
        """Return the labels; for terms whose ``needs`` have "labels"."""
        assert self.labels is not None
        return self.labels


Compare = Callable[[Answers], Tensor]  # to a scalar; no gradient flows into the teacher's tensors


@dataclass(frozen=True)
class Term:
    """A loss with its settings filled in.

    ``trained`` are weights and running values that exist for the training only: projectors, heads,
    schedules. They are never part of the student. ``after_step`` is called behind each optimiser
    step.
    """

    needs: frozenset[str]
    compare: Compare
    trained: nn.Module | None = None
    after_step: Callable[[], None] | None = None

    def __call__(
        self,
        outputs: Sequence[Tensor],
        features: Sequence[Tensor],
        teacher_outputs: Sequence[Tensor],
        teacher_features: Sequence[Tensor],
        labels: Tensor | None,
        valid: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of a batch."""
        return self.compare(
            Answers(outputs, features, teacher_outputs, teacher_features, labels, valid)
        )


def of_logits(needs: frozenset[str], loss: Callable[[Tensor, Tensor], Tensor]) -> Term:
    """Return the term of a loss that compares the two first outputs."""
    return Term(needs, lambda seen: loss(seen.outputs[0], seen.teacher_outputs[0]))


def of_labels(needs: frozenset[str], loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Term:
    """Return the term of a loss that also sees the labels."""
    return Term(
        needs, lambda seen: loss(seen.outputs[0], seen.teacher_outputs[0], seen.known_labels)
    )
