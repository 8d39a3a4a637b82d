"""The losses on outputs of less common kinds: stored probabilities, numbers, bins."""

from __future__ import annotations

from torch import Tensor

from edgekd import loss_settings as settings
from edgekd.algorithms import ferkd, first, pose_distillation, two_teacher_regression
from edgekd.algorithms.cross_entropy import log_probabilities
from edgekd.distillation.label_losses import with_truth
from edgekd.distillation.term import Answers, Pairing, Term, of_labels, of_logits


def first_term(options: settings.First, pair: Pairing) -> Term:
    """Return the term of ``first_loss`` on the teacher's likeliest classes.

    Raises ValueError for more of them than there are.
    """
    classes = pair.student.classes
    if classes and options.top_k > classes:
        raise ValueError(f"'top_k: {options.top_k}' is more than the model's {classes} classes")
    if options.smoothing and options.top_k < 2:
        raise ValueError("'smoothing' gives to the other classes, and 'top_k: 1' has none")

    def loss(student: Tensor, teacher: Tensor) -> Tensor:
        stored, classes = log_probabilities(teacher.detach()).exp().topk(options.top_k, dim=-1)
        if options.smoothing:
            stored = first.smoothed_top(stored, options.smoothing)
        return first.first_loss(
            student,
            stored,
            classes,
            normalize=options.normalize,
            temperature=options.temperature,
            rest=options.rest,
        )

    return of_logits(first.NEEDS, loss)


def ferkd_term(options: settings.FerKd) -> Term:
    """Return the term of ``ferkd_loss``; raises ValueError for bands that are out of order."""
    bands = options.lowest, options.middle, options.highest
    if options.lowest > options.middle or options.lowest > options.highest:
        raise ValueError(
            f"'lowest', 'middle' and 'highest' are {bands}: 'lowest' is at most each of the others"
        )

    def loss(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        return ferkd.ferkd_loss(
            student,
            teacher,
            labels=labels,
            lowest=options.lowest,
            middle=options.middle,
            highest=options.highest,
            smoothing=options.smoothing,
        )

    return of_labels(ferkd.NEEDS, loss)


def two_teacher(options: settings.TwoTeacher) -> Term:
    """Return the term of ``two_teacher_loss``; the tough teacher is the first one.

    Samples without targets do not count.
    """

    def compare(seen: Answers) -> Tensor:
        student = seen.outputs[0]
        truth = seen.known_labels.reshape(student.shape)
        known = with_truth(truth)
        if not known.any():
            return student.sum() * 0.0
        tough, tolerant = (answer.reshape(student.shape)[known] for answer in seen.each_teacher)
        return two_teacher_regression.two_teacher_loss(
            student[known],
            tough,
            tolerant,
            truth=truth[known],
            main_weight=options.main_weight,
            tough_weight=options.tough_weight,
            tolerant_weight=options.tolerant_weight,
        )

    # "several" is too weak: there are two.
    needs = (two_teacher_regression.NEEDS - {"several-teachers"}) | {"regression", "two-teachers"}
    return Term(needs, compare, each_teacher=True)


def bins_term(options: settings.Bins) -> Term:
    """Return the term of ``bins_loss`` over all outputs, one for each axis of the coordinates."""

    def compare(seen: Answers) -> Tensor:
        return pose_distillation.bins_loss(
            list(seen.outputs), list(seen.teacher_outputs), sharpness=options.sharpness
        )

    return Term(frozenset({"bins"}), compare, judge=compare)
