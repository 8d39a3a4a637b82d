import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import samples

from edgekd.algorithms.contrastive_loss import contrastive_loss


def vectors(count: int, channels: int, seed: int = 0) -> torch.Tensor:
    return samples(count, channels, seed=seed).double()


@given(st.floats(0.01, 100), st.permutations(range(5)))
def test_scales_and_a_shared_order_do_not_count(scale: float, order: list[int]) -> None:
    student, teacher = vectors(5, 3), vectors(5, 3, seed=1)
    value = contrastive_loss(student, teacher).item()
    assert contrastive_loss(scale * student[order], teacher[order]).item() == pytest.approx(value)


@pytest.mark.parametrize("count", [2, 16])
def test_nothing_known_is_the_log_of_the_batch_and_everything_known_nothing(count: int) -> None:
    same = torch.ones(count, 4).double()
    assert contrastive_loss(same, vectors(count, 4)).item() > 0
    assert contrastive_loss(same, same).item() == pytest.approx(math.log(count))
    far = torch.eye(count).double()
    assert contrastive_loss(far, far, temperature=0.01).item() == pytest.approx(0, abs=1e-9)


def test_a_case_worked_out_by_hand() -> None:
    # Cosines ((1, 0), (0.6, 0.8)), temperature 0.5.
    student = torch.tensor([[2.0, 0.0], [3.0, 4.0]])
    teacher = torch.tensor([[1.0, 0.0], [0.0, 5.0]])
    expected = (math.log1p(math.exp(-2.0)) + math.log1p(math.exp(-0.4))) / 2
    assert contrastive_loss(student, teacher, temperature=0.5).item() == pytest.approx(expected)


def test_gradients_are_right_and_none_reaches_the_teacher() -> None:
    student, teacher = vectors(4, 3).requires_grad_(), vectors(4, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: contrastive_loss(s, teacher.detach()), student)
    contrastive_loss(student, teacher).backward()
    assert teacher.grad is None
    large = (1e4 * samples(4, 3)).half().requires_grad_()
    contrastive_loss(large, torch.zeros(4, 3).half()).backward()
    assert torch.isfinite(large.grad).all()


def test_unlike_channels_and_one_sample_are_refused() -> None:
    for student, teacher in (((4, 3), (4, 5)), ((1, 3), (1, 3))):
        with pytest.raises(ValueError, match="contrast needs"):
            contrastive_loss(samples(*student), samples(*teacher))
