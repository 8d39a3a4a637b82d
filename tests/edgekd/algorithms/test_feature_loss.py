import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import samples

from edgekd.algorithms.feature_loss import feature_loss

SHAPES = ((4, 3, 2, 2), (4, 5), (4, 6, 3))


def features(seed: int) -> list[torch.Tensor]:
    return [samples(*shape, seed=seed + i) for i, shape in enumerate(SHAPES)]


@given(st.lists(st.floats(1e-2, 1e2), min_size=3, max_size=3))
def test_the_scale_of_a_place_does_not_weigh(factors: list[float]) -> None:
    student, teacher = features(0), features(9)
    plain = feature_loss(student, teacher).item()
    scaled = (
        [factor * tensor for factor, tensor in zip(factors, tensors, strict=True)]
        for tensors in (student, teacher)
    )
    assert feature_loss(*scaled).item() == pytest.approx(plain, rel=1e-4)


def test_nothing_for_equal_and_one_for_absent_features() -> None:
    teacher = features(0)
    assert feature_loss(teacher, teacher).item() == 0
    assert feature_loss([torch.zeros_like(t) for t in teacher], teacher).item() == pytest.approx(1)


def test_places_are_averaged() -> None:
    # A relative error of 1/4 (half the value missing) and one of 1.
    teacher = [torch.full((2, 3), 2.0), torch.ones(2, 8)]
    student = [torch.ones(2, 3), torch.zeros(2, 8)]
    assert feature_loss(student, teacher).item() == pytest.approx((0.25 + 1) / 2)


def test_the_teacher_gets_no_gradient() -> None:
    student = [tensor.requires_grad_() for tensor in features(0)]
    teacher = [tensor.requires_grad_() for tensor in features(9)]
    feature_loss(student, teacher).backward()
    assert all(t.grad is not None for t in student) and all(t.grad is None for t in teacher)
