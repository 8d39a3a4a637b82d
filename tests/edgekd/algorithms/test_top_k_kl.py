import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import samples

from edgekd.algorithms.kd_loss import kl_loss
from edgekd.algorithms.top_k_kl import top_k_kl

ks, temperatures = st.integers(1, 9), st.floats(0.5, 20)


@given(ks, temperatures)
def test_it_grows_with_k_up_to_the_whole(k: int, temperature: float) -> None:
    """Merging classes never raises a divergence, and the last one follows from the others."""
    student, teacher = samples(4, 7).double(), samples(4, 7, seed=1).double()
    whole = kl_loss(student, teacher, temperature).item()
    found = top_k_kl(student, teacher, temperature, k).item()
    smaller = top_k_kl(student, teacher, temperature, max(1, k - 1)).item()
    assert smaller <= found + 1e-9 <= whole + 2e-9
    if k >= 6:
        assert found == pytest.approx(whole, rel=1e-9)


def test_the_lumped_form_reaches_the_whole_at_all_classes_but_one() -> None:
    """With k = C - 1 the rest is one class: the shortcut for large k agrees with the sum."""
    student, teacher = samples(4, 5).double(), samples(4, 5, seed=1).double()
    padding = torch.full((4, 1), -40.0).double()  # a sixth class that nobody takes
    padded = [torch.cat([logits, padding], 1) for logits in (student, teacher)]
    found = top_k_kl(*padded, 1.0, 4).item()
    assert found == pytest.approx(kl_loss(student, teacher, 1.0).item(), rel=1e-9)


@given(ks, temperatures)
def test_equal_logits_cost_nothing(k: int, temperature: float) -> None:
    logits = samples(4, 7)
    assert top_k_kl(logits, logits, temperature, k).item() == pytest.approx(0, abs=1e-4)


def test_a_case_worked_out_by_hand() -> None:
    # Teacher (8, 4, 2, 1, 1)/16, student (4, 4, 4, 2, 2)/16; the top two and the rest are
    # (1/2, 1/4, 1/4) against (1/4, 1/4, 1/2).
    teacher = torch.tensor([[8.0, 4, 2, 1, 1]]).log()
    student = torch.tensor([[4.0, 4, 4, 2, 2]]).log()
    expected = 0.5 * math.log(2) + 0 + 0.25 * math.log(0.5)
    assert top_k_kl(student, teacher, 1.0, 2).item() == pytest.approx(expected, rel=1e-5)


def test_what_happens_within_the_rest_is_free_and_how_much_it_is_is_not() -> None:
    teacher = torch.tensor([[8.0, 4, 2, 1, 1]]).log()
    reordered = torch.tensor([[8.0, 4, 1, 1, 2]]).log()
    heavier = torch.tensor([[8.0, 4, 4, 2, 2]]).log()  # the top two keep their ratio
    assert top_k_kl(reordered, teacher, 1.0, 2).item() == pytest.approx(0, abs=1e-6)
    assert top_k_kl(heavier, teacher, 1.0, 2).item() > 0.01


@given(st.integers(1, 4), st.floats(-50, 50))
def test_the_gradient_sums_to_nothing_and_shifts_do_not_matter(k: int, shift: float) -> None:
    student = samples(4, 7).double().requires_grad_()
    teacher = samples(4, 7, seed=1).double().requires_grad_()
    value = top_k_kl(student, teacher, 2.0, k)
    value.backward()
    assert student.grad is not None and teacher.grad is None
    assert student.grad.sum(1) == pytest.approx(torch.zeros(4).double(), abs=1e-9)
    shifted = top_k_kl(student + shift, teacher - shift, 2.0, k)
    assert shifted.item() == pytest.approx(value.item(), rel=1e-6)


def test_sure_teachers_and_students_stay_finite() -> None:
    teacher = torch.tensor([[60.0, -60, -60, -60, -60]])
    student = (-teacher).requires_grad_()
    value = top_k_kl(student, teacher, 1.0, 2)
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(student.grad).all()
