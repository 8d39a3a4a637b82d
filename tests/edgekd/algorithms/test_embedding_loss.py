import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import samples

from edgekd.algorithms.embedding_loss import cosine_loss, output_scale, scaled_smooth_l1

sizes = st.floats(1e-2, 1e2)


@given(sizes, sizes)
def test_lengths_do_not_count_for_angles(a: float, b: float) -> None:
    student, teacher = samples(4, 5).double(), samples(4, 5, seed=1).double()
    plain = cosine_loss(student, teacher).item()
    assert cosine_loss(a * student, b * teacher).item() == pytest.approx(plain, rel=1e-9)
    assert cosine_loss(a * teacher, teacher).item() == pytest.approx(0, abs=1e-9)
    assert cosine_loss(-a * teacher, teacher).item() == pytest.approx(2, rel=1e-9)


def test_angles_worked_out_by_hand() -> None:
    student = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]], requires_grad=True)
    teacher = torch.tensor([[0.0, 2.0], [1.0, 0.0], [3.0, 0.0]])
    found = cosine_loss(student, teacher)
    assert found.item() == pytest.approx((1 + 1 + 1 - 1 / math.sqrt(2)) / 3)
    found.backward()
    assert torch.isfinite(student.grad).all()


def test_distances_worked_out_by_hand() -> None:
    # Scaled errors 1/2 and 3 with beta 1: 1/8 and 3 - 1/2. With beta 4 both are squares over 8.
    student, teacher = torch.tensor([[1.0, 30.0]]), torch.tensor([[0.0, 0.0]])
    scale = torch.tensor([2.0, 10.0])
    assert scaled_smooth_l1(student, teacher, scale=scale).item() == pytest.approx(2.625 / 2)
    wider = scaled_smooth_l1(student, teacher, scale=scale, beta=4.0)
    assert wider.item() == pytest.approx((0.25 / 8 + 9 / 8) / 2)


@given(st.lists(sizes, min_size=3, max_size=3))
def test_the_unit_of_an_output_does_not_weigh(units: list[float]) -> None:
    student, teacher = samples(5, 3).double(), samples(5, 3, seed=1).double()
    factor = torch.tensor(units).double()
    plain = scaled_smooth_l1(student, teacher).item()
    assert scaled_smooth_l1(factor * student, factor * teacher).item() == pytest.approx(plain)


def test_the_scale_is_the_deviation_over_samples() -> None:
    outputs = torch.tensor([[0.0, 7.1], [2.0, 7.1], [4.0, 7.1]])
    assert output_scale(outputs).tolist() == [2.0, 1.0]
    outputs[0, 1] += 5e-7  # the last bit, as a kernel that adds in another order leaves it
    assert outputs[:, 1].std() > 0 and output_scale(outputs)[1] == 1
    with pytest.raises(ValueError, match="two samples"):
        output_scale(outputs[:1])
    with pytest.raises(ValueError, match="two samples"):
        scaled_smooth_l1(outputs[:1], outputs[:1])


@pytest.mark.parametrize("loss", [cosine_loss, scaled_smooth_l1])
def test_equal_outputs_cost_nothing_and_the_teacher_gets_no_gradient(loss) -> None:
    student, teacher = samples(3, 4).requires_grad_(), samples(3, 4, seed=1).requires_grad_()
    assert loss(teacher, teacher).item() == pytest.approx(0, abs=1e-6)
    loss(student, teacher).backward()
    assert student.grad.abs().max() > 1e-3 and teacher.grad is None
    with pytest.raises(ValueError, match="one by one"):
        loss(student, teacher[:, :2])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_squares_do_not_overflow_sixteen_bits(dtype: torch.dtype) -> None:
    student, teacher = (3e4 * samples(4, 8, seed=i).clamp(-1, 1) for i in (0, 1))
    for loss in (cosine_loss, scaled_smooth_l1):
        found = loss(student.to(dtype), teacher.to(dtype))
        assert found.item() == pytest.approx(loss(student, teacher).item(), rel=0.02)


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="no direction"):
        cosine_loss(samples(3, 1), samples(3, 1))
    with pytest.raises(ValueError, match="beta"):
        scaled_smooth_l1(samples(3, 1), samples(3, 1), beta=0.0)
