"""Losses on stored probabilities, numbers and bins, and what labels say of each kind of output."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from edgekd.algorithms.first import first_loss
from edgekd.algorithms.pose_distillation import bins_loss
from edgekd.algorithms.two_teacher_regression import two_teacher_loss
from edgekd.distillation.label_losses import label_loss, pixel_cross_entropy, value_loss
from edgekd.distillation.losses import build_term, check_needs
from edgekd.distillation.term import Pairing, Side, Term
from edgekd.loss_settings import LossSettings

READ: TypeAdapter[Any] = TypeAdapter(LossSettings)
CLASSES = Side(5, ((5,),))
NUMBERS = Side(0, ((4,),), regression=True)
BINS = Side(0, ((3, 8), (3, 6)))


def term(name: str, side: Side = CLASSES, **given: Any) -> Term:
    return build_term(READ.validate_python({"loss": name, **given}), Pairing(side, side, 4))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_nothing_but_the_teachers_likeliest_classes_counts() -> None:
    student, teacher = random(6, 5), random(6, 5, seed=1) * 3
    made = term("first", top_k=2)
    found = made([student], [], [teacher], [], None)
    probabilities, classes = teacher.softmax(-1).topk(2)
    torch.testing.assert_close(found, first_loss(student, probabilities, classes))
    others = teacher.softmax(-1)
    others.scatter_add_(1, teacher.argsort(1)[:, :1], torch.zeros(6, 1))
    least, middle = teacher.argsort(1)[:, 0], teacher.argsort(1)[:, 1]
    swapped = teacher.clone()  # of two unlikely classes
    rows = torch.arange(6)
    swapped[rows, least], swapped[rows, middle] = teacher[rows, middle], teacher[rows, least]
    torch.testing.assert_close(made([student], [], [swapped], [], None), found)
    smooth = term("first", top_k=2, smoothing=0.1)([student], [], [teacher], [], None)
    assert not torch.isclose(smooth, found)


@pytest.mark.parametrize(
    ("name", "given", "reason"),
    [
        ("first", {"top_k": 6}, "'top_k: 6' is more than the model's 5 classes"),
        ("first", {"top_k": 1, "smoothing": 0.1}, "'top_k: 1' has none"),
        ("ferkd", {"lowest": 0.5}, "'lowest' is at most each of the others"),
    ],
)
def test_settings_that_cannot_be(name: str, given: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        term(name, **given)


def test_each_of_two_teachers_is_seen() -> None:
    student, tough, tolerant, truth = (random(5, 4, seed=i) * 0.2 for i in range(4))
    made = term("two-teacher", NUMBERS, tough_weight=0.5)
    labels = truth.clone()
    labels[1] = torch.nan  # a sample without targets
    rows = [0, 2, 3, 4]
    found = made([student], [], [(tough + tolerant) / 2], [], labels, None, [tough, tolerant])
    given = [x[rows] for x in (student, tough, tolerant)]
    torch.testing.assert_close(found, two_teacher_loss(*given, truth=truth[rows], tough_weight=0.5))
    none = made([student], [], [tough], [], labels * torch.nan, None, [tough, tolerant])
    assert made.each_teacher and float(none) == 0


@pytest.mark.parametrize(
    ("name", "side", "teachers", "reason"),
    [
        ("two-teacher", NUMBERS, 1, "it is for two teachers, the original and one more"),
        ("two-teacher", NUMBERS, 3, "and there are 3"),
        ("two-teacher", CLASSES, 2, "it needs targets of floats"),
        ("bins", CLASSES, 1, r"it needs outputs \(keypoints, bins\) a sample, .* not \(5,\)"),
        ("ferkd", NUMBERS, 1, "it needs class logits with integer labels"),
        ("first", NUMBERS, 1, "it needs class logits with integer labels"),
    ],
)
def test_wrong_pairings_are_refused(name: str, side: Side, teachers: int, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_needs(term(name, side), Pairing(side, side, 4), teachers=teachers)


def test_bins_of_all_axes_count_and_judge() -> None:
    own, other = ([random(2, *s, seed=i + j) for i, s in enumerate(BINS.outputs)] for j in (0, 5))
    made = term("bins", BINS)
    check_needs(made, Pairing(BINS, BINS, 4), teachers=1)
    torch.testing.assert_close(made(own, [], other, [], None), bins_loss(own, other))
    assert made.judge is not None


def test_which_labels_an_output_has() -> None:
    assert label_loss(Side(0, ((4,),))) is None
    assert label_loss(NUMBERS) is value_loss
    assert label_loss(Side(0, ((4, 2, 2),), pixel_classes=4)) is pixel_cross_entropy


def test_pixels_without_a_label_do_not_count() -> None:
    logits, labels = random(2, 3, 2, 2), torch.tensor([[[0, 255], [-1, 2]], [[1, 1], [255, 255]]])
    known = [(0, 0, 0), (0, 1, 1), (1, 0, 0), (1, 0, 1)]
    each = [-logits[n, :, y, x].log_softmax(0)[labels[n, y, x]] for n, y, x in known]
    torch.testing.assert_close(pixel_cross_entropy(logits, labels), torch.stack(each).mean())
    assert float(pixel_cross_entropy(logits, torch.full_like(labels, 255))) == 0


def test_numbers_are_compared_in_units_of_their_deviation() -> None:
    found, truth = random(6, 2), random(6, 2, seed=1)
    scale = torch.tensor([1.0, 1000.0])
    torch.testing.assert_close(value_loss(found * scale, truth * scale), value_loss(found, truth))
    missing = torch.cat([truth, torch.full((1, 2), torch.nan)])
    longer = torch.cat([found, torch.zeros(1, 2)])
    torch.testing.assert_close(value_loss(longer, missing), value_loss(found, truth))
    flat = value_loss(found[:, :1], truth[:, 0])
    torch.testing.assert_close(flat, value_loss(found[:, :1], truth[:, :1]))
    assert value_loss(found[:1], truth[:1]).isfinite()
    assert float(value_loss(found, truth * torch.nan)) == 0
