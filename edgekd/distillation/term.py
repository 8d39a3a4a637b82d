"""One loss of a ``distill`` stage, built for a pair of networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from edgekd.algorithms.token_mask import TokenMask

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
    """The two networks that a loss compares, and the optimiser ``steps`` of the training.

    ``inputs`` are the shapes of one sample's inputs. ``itself``: there is no student, the network
    trains as it is.
    """

    student: Side
    teacher: Side
    steps: int
    inputs: tuple[Shape, ...] = ()
    itself: bool = False


@dataclass(frozen=True)
class Viewed:
    """Images ``(M, C, H, W)`` made of a batch's, and which of their patches are hidden."""

    images: Tensor
    mask: TokenMask | None = None


@dataclass(frozen=True)
class View:
    """Transformed copies of the images that a loss looks at instead of the plain batch.

    ``of`` draws from torch's own generator, if at all, so that a training repeats and resumes.
    Terms whose ``of`` are equal share one run of the networks. ``teacher``: whether the term
    compares with the teacher's answers, which are then computed and never stored.
    """

    of: Callable[[Tensor], Viewed]
    teacher: bool = True


@dataclass(frozen=True)
class Answers:
    """A batch: outputs and features of both networks, and labels (-1: none).

    ``valid`` says which tokens are no padding, bool ``(N, T)``; None where nothing says so. For a
    term with a view, outputs and features are those of the view (the teacher's may be empty if it
    needs none), ``mask`` says what is hidden there; labels and ``images`` are the plain batch's.
    """

    outputs: Sequence[Tensor]
    features: Sequence[Tensor]
    teacher_outputs: Sequence[Tensor]
    teacher_features: Sequence[Tensor]
    labels: Tensor | None
    valid: Tensor | None = None
    images: Tensor | None = None
    mask: TokenMask | None = None

    @property
    def known_labels(self) -> Tensor:
        """Return the labels; for terms whose ``needs`` have "labels"."""
        assert self.labels is not None
        return self.labels


Prepare = Callable[[Tensor, Tensor, Sequence[Tensor]], None]
Compare = Callable[[Answers], Tensor]  # to a scalar; no gradient flows into the teacher's tensors


@dataclass(frozen=True)
class Term:
    """A loss with its settings filled in.

    ``trained`` are weights and running values that exist for the training only: projectors, heads,
    schedules. They are never part of the student. ``after_step`` is called behind each optimiser
    step. ``view``: what it looks at, where that is not the plain batch. ``prepare`` is called once
    before the training, with the teacher's logits, the labels and the teacher's pooled features of
    training samples; it raises ValueError where they do not do. ``departs``: the network is to
    leave the teacher's answers, so that their distance does not judge the training.
    """

    needs: frozenset[str]
    compare: Compare
    trained: nn.Module | None = None
    after_step: Callable[[], None] | None = None
    view: View | None = None
    prepare: Prepare | None = None
    departs: bool = False

    def __call__(
        self,
        outputs: Sequence[Tensor],
        features: Sequence[Tensor],
        teacher_outputs: Sequence[Tensor],
        teacher_features: Sequence[Tensor],
        labels: Tensor | None,
        valid: Tensor | None = None,
        images: Tensor | None = None,
        mask: TokenMask | None = None,
    ) -> Tensor:
        """Return the loss of a batch."""
        known = (outputs, features, teacher_outputs, teacher_features)
        return self.compare(Answers(*known, labels, valid, images, mask))


def of_logits(needs: frozenset[str], loss: Callable[[Tensor, Tensor], Tensor]) -> Term:
    """Return the term of a loss that compares the two first outputs."""
    return Term(needs, lambda seen: loss(seen.outputs[0], seen.teacher_outputs[0]))


def of_labels(needs: frozenset[str], loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Term:
    """Return the term of a loss that also sees the labels."""
    return Term(
        needs, lambda seen: loss(seen.outputs[0], seen.teacher_outputs[0], seen.known_labels)
    )
