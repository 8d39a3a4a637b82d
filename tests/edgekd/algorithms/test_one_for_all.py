import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import samples

from edgekd.algorithms.one_for_all import one_for_all_loss

LABELS = torch.tensor([1, 0, 4, -1])
exponents, temperatures = st.floats(1, 4), st.floats(0.5, 8)


def logits(seed: int = 0) -> torch.Tensor:
    return samples(4, 5, seed=seed).double()


@given(temperatures)
def test_with_exponent_one_it_is_the_cross_entropy_with_the_teacher(temperature: float) -> None:
    student, teacher = logits(), logits(1)
    p, log_q = (teacher / temperature).softmax(1), (student / temperature).log_softmax(1)
    found = one_for_all_loss(student, teacher, labels=LABELS, temperature=temperature)
    assert found.item() == pytest.approx(-(p * log_q).sum(1).mean().item())


@given(exponents)
def test_the_gradient_tells_the_weights(exponent: float) -> None:
    """dL/ds_c = q_c * sum(w) - w_c: the right class weighs (1 + p)^e - 1, all others p^e."""
    student, teacher = logits().requires_grad_(), logits(1).requires_grad_()
    one_for_all_loss(student, teacher, labels=LABELS, exponent=exponent).backward()
    p, q = teacher.detach().softmax(1), student.detach().softmax(1)
    weights = p**exponent
    for row, label in enumerate(LABELS[:3].tolist()):
        weights[row, label] = (1 + p[row, label]) ** exponent - 1
        assert weights[row, label] >= p[row, label] - 1e-12
    expected = (q * weights.sum(1, keepdim=True) - weights) / 4
    assert student.grad is not None and teacher.grad is None
    assert torch.allclose(student.grad, expected)
    assert student.grad.sum(1).abs().max() < 1e-9


@given(exponents, st.floats(-50, 50))
def test_shifts_do_not_count(exponent: float, shift: float) -> None:
    plain = one_for_all_loss(logits(), logits(1), labels=LABELS, exponent=exponent)
    moved = one_for_all_loss(logits() + shift, logits(1) - shift, labels=LABELS, exponent=exponent)
    assert moved.item() == pytest.approx(plain.item(), rel=1e-6)


def test_a_case_worked_out_by_hand() -> None:
    # p = (1/2, 1/4, 1/4), q = (1/4, 1/2, 1/4), exponent 2: weights (9/4 - 1, 1/16, 1/16) for
    # label 0, and (1/4, 1/16, 1/16) without a label; -log q = (2, 1, 2) log 2.
    teacher = torch.tensor([[2.0, 1, 1]] * 2).log()
    student = torch.tensor([[1.0, 2, 1]] * 2).log()
    labelled, without = (5 / 4 * 2 + 3 / 16) * math.log(2), (1 / 4 * 2 + 3 / 16) * math.log(2)
    found = one_for_all_loss(student, teacher, labels=torch.tensor([0, -1]), exponent=2.0)
    assert found.item() == pytest.approx((labelled + without) / 2, rel=1e-5)


def test_the_number_that_means_no_label_may_be_a_class() -> None:
    found, expected = (
        one_for_all_loss(logits(), logits(1), labels=labels, exponent=2.0, ignore_index=ignored)
        for labels, ignored in ((torch.tensor([1, 0, 4, 2]), 2), (LABELS, -1))
    )
    assert found.item() == expected.item()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sure_teachers_and_students_stay_finite(dtype: torch.dtype) -> None:
    teacher = torch.tensor([[60.0, -60, -60]], dtype=dtype)
    student = (-teacher).requires_grad_()
    value = one_for_all_loss(student, teacher, labels=torch.tensor([0]), exponent=1.5)
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(student.grad).all()


def test_an_exponent_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        one_for_all_loss(logits(), logits(1), labels=LABELS, exponent=0.5)
