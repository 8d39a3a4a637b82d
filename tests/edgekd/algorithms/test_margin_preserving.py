import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from loss_checks import check_gradient, check_large_half_precision, check_shift_invariance, logits

from edgekd.algorithms.kd_loss import kl_loss
from edgekd.algorithms.margin_preserving import (
    focal_loss,
    margin_cross_entropy,
    margin_preserving_loss,
)

LABELS = torch.tensor([1, 0, 3, 2])


def test_a_reference_that_is_right_weighs_six_times_and_a_wrong_one_once() -> None:
    student, reference = logits(), logits(seed=1)
    plain = kl_loss(student, reference, 5.0).item() / 25  # no T^2
    right = reference.argmax(1)
    assert focal_loss(student, reference, labels=right).item() == pytest.approx(6 * plain)
    for labels in ((right + 1) % 5, torch.full((4,), -1)):
        assert focal_loss(student, reference, labels=labels).item() == pytest.approx(plain)


@pytest.mark.parametrize("form", ["kl", "logits"])
def test_equal_logits_cost_nothing(form) -> None:
    some = logits()
    found = focal_loss(some, some, labels=LABELS, form=form)
    assert found.item() == pytest.approx(0, abs=1e-12)


def test_both_forms_by_hand() -> None:
    # Reference (3/4, 1/4) is right, the student even: weight 6, T = 1.
    student, reference = torch.zeros(1, 2), torch.tensor([[math.log(3), 0.0]])
    divergence = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    label = torch.tensor([0])
    found = focal_loss(student, reference, labels=label, temperature=1.0)
    assert found.item() == pytest.approx(6 * divergence, rel=1e-5)
    squared = focal_loss(student, reference, labels=label, form="logits")
    assert squared.item() == pytest.approx(6 * 0.5 * math.log(3) ** 2 / 2, rel=1e-5)


@given(st.floats(0, 4), st.floats(0.1, 4))
def test_a_bias_makes_old_classes_dearer_and_new_ones_cheaper(bias: float, more: float) -> None:
    some = logits()

    def loss(label: int, bias: float) -> float:
        labels = torch.full((4,), label)
        return margin_cross_entropy(some, labels, new_classes=[3, 4], bias=bias).item()

    assert loss(0, bias + more) > loss(0, bias)
    assert loss(4, bias + more) < loss(4, bias)


def test_the_gradient_stops_only_at_the_margin() -> None:
    """With bias b an old class that leads by b costs what an equal one costs without."""
    ahead = torch.tensor([[4.0, 0.0]])
    found = margin_cross_entropy(ahead, torch.tensor([0]), new_classes=[1], bias=4.0)
    assert found.item() == pytest.approx(math.log(2))


def test_the_whole_is_the_sum_of_its_parts() -> None:
    student, former, teacher = logits(), logits(4, 3, seed=1), logits(seed=2)
    found = margin_preserving_loss(student, former, labels=LABELS, teacher_logits=teacher)
    expected = (
        F.cross_entropy(student + torch.tensor([0, 0, 0, 4, 4]), LABELS)
        + focal_loss(student[:, :3], former, labels=LABELS)
        + focal_loss(student, teacher, labels=LABELS)
    )
    assert found.item() == pytest.approx(expected.item())


def test_without_new_classes_it_is_focal_distillation_on_labels() -> None:
    student, former = logits(), logits(seed=1)
    found = margin_preserving_loss(student, former, labels=LABELS, form="logits")
    focal = focal_loss(student, former, labels=LABELS, form="logits")
    expected = F.cross_entropy(student, LABELS) + 0.4 * focal
    assert found.item() == pytest.approx(expected.item())
    off = margin_preserving_loss(student, former, labels=LABELS, base=0.0, focus=0.0)
    assert off.item() == pytest.approx(F.cross_entropy(student, LABELS).item())


def test_a_former_model_with_more_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="only 3"):
        margin_preserving_loss(logits(4, 3), logits(), labels=LABELS % 3)


def test_what_every_loss_is_to_hold() -> None:
    def loss(student: torch.Tensor, former: torch.Tensor) -> torch.Tensor:
        labels = torch.tensor([1, 0, -1, 3])[: len(student)]
        return margin_preserving_loss(student, former, labels=labels)

    check_shift_invariance(loss)
    check_large_half_precision(loss)
    check_gradient(loss)
