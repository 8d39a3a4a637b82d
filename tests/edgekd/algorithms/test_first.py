import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loss_checks import check_gradient, check_large_half_precision, check_shift_invariance, logits

from edgekd.algorithms.first import first_loss, smoothed_top
from edgekd.algorithms.top_k_kl import top_k_kl

FORMS = ["linear", "softmax"]


def stored(teacher: torch.Tensor, k: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    values, indices = teacher.detach().float().softmax(-1).to(teacher.dtype).topk(k, dim=-1)
    return values, indices


@pytest.mark.parametrize("rest", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_the_teacher_itself_costs_nothing(form, rest: bool) -> None:
    teacher = logits()
    values, indices = teacher.softmax(-1).topk(3, dim=-1)
    found = first_loss(teacher, values, indices, normalize=form, rest=rest)
    assert found.item() == pytest.approx(0, abs=1e-9)


def test_a_case_worked_out_by_hand() -> None:
    # Kept (1/2, 1/4) of the teacher and (1/4, 1/4) of the student: (2/3, 1/3) against halves.
    teacher = torch.tensor([[8.0, 4, 2, 1, 1]]).log().softmax(-1)
    student = torch.tensor([[4.0, 4, 4, 2, 2]]).log()
    values, indices = teacher.topk(2, dim=-1)
    expected = 2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3)
    assert first_loss(student, values, indices).item() == pytest.approx(expected, rel=1e-4)
    p, q = math.exp(0.5), math.exp(0.25)
    soft = p / (p + q) * math.log(2 * p / (p + q)) + q / (p + q) * math.log(2 * q / (p + q))
    found = first_loss(student, values, indices, normalize="softmax")
    assert found.item() == pytest.approx(soft, rel=1e-4)


def test_the_softmax_form_is_flat() -> None:
    p = torch.tensor([0.9, 0.05, 0.03, 0.01, 0.005])
    ratio = p.softmax(0).max() / p.softmax(0).min()
    assert 2 < ratio < math.e


def test_only_with_the_rest_does_mass_outside_count() -> None:
    """A student with the right ratios but little of the whole on the kept classes."""
    teacher = torch.tensor([[0.6, 0.3, 0.05, 0.05]])
    student = torch.tensor([[0.06, 0.03, 0.46, 0.45]]).log()
    values, indices = teacher.topk(2, dim=-1)
    assert first_loss(student, values, indices).item() == pytest.approx(0, abs=1e-5)
    assert first_loss(student, values, indices, rest=True).item() > 0.5


def test_with_the_rest_it_is_the_loss_on_logits() -> None:
    student, teacher = logits(), logits(seed=1)
    found = first_loss(student, *stored(teacher, 2), rest=True)
    assert found.item() == pytest.approx(top_k_kl(student, teacher, 1.0, 2).item(), rel=1e-3)


@given(st.floats(0, 1))
def test_smoothing_keeps_the_sum_and_the_order(smoothing: float) -> None:
    values, _ = stored(logits())
    found = smoothed_top(values, smoothing)
    torch.testing.assert_close(found.sum(-1), values.sum(-1))
    assert (found[:, 0] >= found[:, 1] - 1e-6).all()
    assert (found[:, 1:] >= values[:, 1:] - 1e-9).all()


def test_smoothing_by_hand() -> None:
    found = smoothed_top(torch.tensor([[0.8, 0.1, 0.06]]), 0.1)
    assert found[0].tolist() == pytest.approx([0.7, 0.15, 0.11])
    # A first that would fall below the second stops where they meet.
    close = smoothed_top(torch.tensor([[0.4, 0.37, 0.1]]), 0.1)
    assert close[0].tolist() == pytest.approx([0.38, 0.38, 0.11])


@pytest.mark.parametrize("form", FORMS)
def test_what_every_loss_is_to_hold(form) -> None:
    def loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        return first_loss(student, *teacher.softmax(-1).topk(3, dim=-1), normalize=form, rest=True)

    check_shift_invariance(loss)
    check_large_half_precision(loss)
    check_gradient(loss)
