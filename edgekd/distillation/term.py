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
    tensors that this loss compares: the student's i-th with the teacher's i-th. ``pixel_classes``
    is above 0 where the first output is class logits at each pixel, with labels for them, and
    ``regression`` tells that the labels are numbers, as many as the first output has.
    """

    classes: int
    outputs: tuple[Shape, ...]
    features: tuple[Shape, ...] = ()
    pixel_classes: int = 0
    regression: bool = False


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
    ``each_teacher`` has every teacher's own first output, for terms that ask for it; the first of
    ``teacher_outputs`` is their average.
    """

    outputs: Sequence[Tensor]
    features: Sequence[Tensor]
    teacher_outputs: Sequence[Tensor]
    teacher_features: Sequence[Tensor]
    labels: Tensor | None
    valid: Tensor | None = None
    each_teacher: Sequence[Tensor] = ()

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
    step. ``each_teacher``: it needs every teacher's own answer. ``judge`` is what tells a better
    student in place of ``kl`` or ``mse`` where the term is one on all outputs; those behind the
    first are then compared by nothing else.
    """

    needs: frozenset[str]
    compare: Compare
    trained: nn.Module | None = None
    after_step: Callable[[], None] | None = None
    each_teacher: bool = False
    judge: Compare | None = None

    def __call__(
        self,
        outputs: Sequence[Tensor],
        features: Sequence[Tensor],
        teacher_outputs: Sequence[Tensor],
        teacher_features: Sequence[Tensor],
        labels: Tensor | None,
        valid: Tensor | None = None,
        each_teacher: Sequence[Tensor] = (),
    ) -> Tensor:
        """Return the loss of a batch."""
        return self.compare(
            Answers(
                outputs, features, teacher_outputs, teacher_features, labels, valid, each_teacher
            )
        )


def of_logits(needs: frozenset[str], loss: Callable[[Tensor, Tensor], Tensor]) -> Term:
    """Return the term of a loss that compares the two first outputs."""
    return Term(needs, lambda seen: loss(seen.outputs[0], seen.teacher_outputs[0]))


def of_labels(needs: frozenset[str], loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Term:
    """Return the term of a loss that also sees the labels."""
    return Term(
        needs, lambda seen: loss(seen.outputs[0], seen.teacher_outputs[0], seen.known_labels)
    )
