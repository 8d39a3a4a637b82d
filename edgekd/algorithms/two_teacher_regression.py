"""Regression with two teachers, each of which pushes towards the truth from where it stands."""

from __future__ import annotations

import torch
from torch import Tensor

from edgekd.algorithms.precision import wide

NEEDS = frozenset({"labels", "several-teachers"})

_NEAR = 0.15  # within this part of a teacher's own error it says nothing


def two_teacher_loss(
    student: Tensor,
    tough: Tensor,
    tolerant: Tensor,
    *,
    truth: Tensor,
    main_weight: float = 2.0,
    tough_weight: float = 1.0,
    tolerant_weight: float = 1.0,
) -> Tensor:
    """Return the error to the truth plus what two teachers assist, mean over all values.

    Needs outputs to regress, their truth, and two teachers: the tough one was trained on the
    truth, the tolerant one on a smoothed truth. For every value, with d = |x - g| the student's
    error and e the teacher's, mirrored to the student's side: further off than the teacher
    (d > e) it is drawn with ``pull * (d - e)``; within (0.15 e <= d <= e) it is pushed away from
    the teacher with ``push * (e - d)``, push < 0; closer, nothing. The main term is 3 d up to the
    tolerant teacher's error E, then d^2 + 3 E - E^2. So every force points to the truth.

    Args:
        student: ``(N, P)``, any float type.
        tough: the same shape; no gradient flows into it.
        tolerant: the same shape; no gradient flows into it.
        truth: the same shape.
        main_weight: 2 in the source.
        tough_weight: 1 in the source; pull 1.9 and push -0.45.
        tolerant_weight: 1 in the source; pull 1.8 and push -0.4.

    Values are offsets from the centre over the image's size, at most 0.5: 3 d and d^2 do not scale
    alike, so scale other data to that.

    Raises ValueError for unequal shapes.

    Source: Fard and Mahoor, "Facial Landmark Points Detection Using Knowledge Distillation-Based
    Neural Networks", CVIU 2022, arXiv 2111.07047; constants of the released code.
    """
    if not student.shape == tough.shape == tolerant.shape == truth.shape:
        shapes = [tuple(x.shape) for x in (student, tough, tolerant, truth)]
        raise ValueError(f"student, both teachers and the truth differ in shape: {shapes}")
    found, right = wide(student), wide(truth.detach())
    error = (found - right).abs()
    strict, mild = ((wide(x.detach()) - right).abs() for x in (tough, tolerant))
    main = torch.where(error <= mild, 3 * error, error.square() + 3 * mild - mild.square())
    helped = tough_weight * _assist(error, strict, pull=1.9, push=-0.45)
    helped = helped + tolerant_weight * _assist(error, mild, pull=1.8, push=-0.4)
    return (main_weight * main + helped).mean()


def _assist(error: Tensor, teacher: Tensor, *, pull: float, push: float) -> Tensor:
    """Return what a teacher with this error adds for each value; nothing if it has none."""
    beyond, distance = error > teacher, (error - teacher).abs()
    inside = ~beyond & (error >= _NEAR * teacher)
    factor = pull * beyond + push * inside
    return torch.where(teacher > 0, factor * distance, 0.0)
