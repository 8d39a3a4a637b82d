import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import samples

from edgekd.algorithms.hard_augment import augmentation_strength


def test_agreement_and_full_disagreement_are_the_ends() -> None:
    teacher = torch.tensor([[100.0, 0.0, 0.0], [100.0, 0.0, 0.0]])
    student = torch.tensor([[107.0, 7.0, 7.0], [0.0, 100.0, 0.0]])
    assert augmentation_strength(student, teacher).tolist() == pytest.approx([0, 1], abs=1e-6)
    found = augmentation_strength(student, teacher, lowest=0.5, highest=3.0)
    assert found.tolist() == pytest.approx([0.5, 3.0], abs=1e-5)


def test_a_case_worked_out_by_hand() -> None:
    # (1/2, 1/2) and (3/4, 1/4) have the mean (5/8, 3/8).
    student, teacher = torch.zeros(1, 2), torch.tensor([[math.log(3), 0.0]])
    first = 0.5 * math.log(0.5 / 0.625) + 0.5 * math.log(0.5 / 0.375)
    second = 0.75 * math.log(0.75 / 0.625) + 0.25 * math.log(0.25 / 0.375)
    expected = (first + second) / 2 / math.log(2)
    assert augmentation_strength(student, teacher).item() == pytest.approx(expected, rel=1e-5)


@given(st.integers(0, 50), st.floats(0.1, 30))
def test_it_is_symmetric_and_within_bounds(seed: int, size: float) -> None:
    student, teacher = (size * samples(4, 5, seed=seed + i).double() for i in (0, 1))
    found = augmentation_strength(student, teacher)
    assert torch.allclose(found, augmentation_strength(teacher + 3, student - 2))
    assert ((found >= 0) & (found <= 1)).all()


def test_where_the_teacher_is_wrong_nothing_hard_is_asked() -> None:
    teacher, student = torch.tensor([[9.0, 0.0]] * 3), torch.tensor([[0.0, 9.0]] * 3)
    labels = torch.tensor([0, 1, -1])
    found = augmentation_strength(student, teacher, labels=labels, lowest=0.2)
    assert found[1].item() == pytest.approx(0.2) and (found[[0, 2]] > 0.9).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_logits_stay_finite_and_no_gradient_is_kept(dtype: torch.dtype) -> None:
    student = (60 * samples(4, 5)).to(dtype).requires_grad_()
    found = augmentation_strength(student, (-60 * samples(4, 5)).to(dtype))
    assert torch.isfinite(found).all() and not found.requires_grad


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="class by class"):
        augmentation_strength(samples(2, 3), samples(2, 4))
    with pytest.raises(ValueError, match="strengths"):
        augmentation_strength(samples(2, 3), samples(2, 3), lowest=2.0)
