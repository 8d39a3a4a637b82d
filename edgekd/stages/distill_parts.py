"""Which tensors of a student a ``distill`` stage trains, which it starts anew, and by what it is
judged in the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import fx

from edgekd.distillation.label_losses import label_loss
from edgekd.errors import StageError
from edgekd.graph.initialise import initialise, plan
from edgekd.graph.parts import head_tensors, part_tensors, stored_tensors
from edgekd.graph.program import digest
from edgekd.settings import nearest
from edgekd.stages.distill_loss import Learning
from edgekd.training_settings import DistillStage, Part


@dataclass(frozen=True)
class Parts:
    """Names of stored tensors: those that stay as they are, and those that are drawn anew."""

    frozen: frozenset[str] = frozenset()
    reset: frozenset[str] = frozenset()

    def starter(self, student: fx.GraphModule, seed: int) -> Callable[[], None]:
        """Return what draws anew, in place."""
        return lambda: initialise(student, self.reset, seed)


def parts_of(student: fx.GraphModule, options: DistillStage) -> Parts:
    """Find what ``train_only`` and ``reset`` name; raises StageError, with the reason."""
    trained = _named(student, options.train_only, "train_only")
    reset = _named(student, options.reset, "reset")
    everything = frozenset(stored_tensors(student))
    frozen = everything - trained if options.train_only else frozenset()
    if lost := sorted(reset & frozen):
        raise StageError(
            f"distill: 'reset' names {lost[0]!r}, which 'train_only' leaves out, so that it would "
            "stay random; name it under both"
        )
    try:
        plan(student, reset)
    except ValueError as error:
        raise StageError(f"distill: 'reset': {error}") from None
    return Parts(frozen, reset)


def _named(student: fx.GraphModule, part: Part, key: str) -> frozenset[str]:
    try:
        return head_tensors(student) if part == "head" else part_tensors(student, part)
    except ValueError as error:
        if part == "head":
            raise StageError(f"distill: '{key}: head': {error}; name modules instead") from None
        pattern, paths = error.args
        raise StageError(
            f"distill: '{key}': {pattern!r} fits no module of the student{nearest(pattern, paths)}"
        ) from None


@dataclass(frozen=True)
class Judge:
    """What decides whether a training is kept; ``by`` is None where it is kept in any case."""

    by: str | None
    learning: Learning


def judge_of(
    options: DistillStage, learning: Learning, student: fx.GraphModule, teacher: fx.GraphModule
) -> Judge:
    """Say by what a student is judged, before and after its training.

    That is its distance to the teachers, and labels where they are learnt. One that starts as its
    own teacher has none at first and could only lose, so labels judge it. New weights cannot be
    worse than none.
    """
    if options.student is not None and options.student_weights is None:
        return Judge(None, learning)
    if options.teachers or digest(student) != digest(teacher):
        return Judge("teachers" if learning.terms else "labels", learning)
    if label_loss(learning.side) is None:
        return Judge(None, learning)
    return Judge("labels", replace(learning, terms=(), label_weight=1.0))
