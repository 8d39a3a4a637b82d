import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import samples

from edgekd.algorithms.relational_loss import relational_angle_loss, relational_distance_loss

BOTH = pytest.mark.parametrize("loss", [relational_distance_loss, relational_angle_loss])


def vectors(count: int, channels: int, seed: int = 0) -> torch.Tensor:
    return samples(count, channels, seed=seed).double()


@BOTH
@given(st.floats(0.01, 100), st.floats(-5, 5), st.integers(0, 99))
def test_a_rotation_a_scale_and_a_shift_do_not_count(
    loss, scale: float, shift: float, seed: int
) -> None:
    student, teacher = vectors(5, 4), vectors(5, 6, seed=1)
    rotation = torch.linalg.qr(vectors(4, 4, seed=seed + 2)).Q
    moved = scale * student @ rotation + shift
    assert loss(moved, teacher).item() == pytest.approx(loss(student, teacher).item(), rel=1e-5)
    assert loss(moved, student).item() == pytest.approx(0, abs=1e-9)


@BOTH
def test_it_is_the_plain_sum_over_pairs_or_triplets(loss) -> None:
    student, teacher = vectors(4, 2), vectors(4, 3, seed=1)
    tables = [relations(x.numpy(), loss is relational_angle_loss) for x in (student, teacher)]
    gap = np.abs(tables[0] - tables[1])
    expected = np.where(gap < 1, gap**2 / 2, gap - 0.5).mean()
    assert loss(student, teacher).item() == pytest.approx(expected)


def relations(x: np.ndarray, angles: bool) -> np.ndarray:
    count = range(len(x))
    if not angles:
        lengths = np.array([np.linalg.norm(x[i] - x[j]) for i in count for j in count if i != j])
        return lengths / lengths.mean()
    found = []
    for j in count:
        for i in count:
            for k in count:
                if len({i, j, k}) == 3:
                    a, b = x[i] - x[j], x[k] - x[j]
                    found.append(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    return np.array(found)


def test_angles_of_a_right_and_of_an_even_triangle() -> None:
    # Cosines 0, 1/sqrt 2, 1/sqrt 2 against 1/2 three times; all differences are below 1.
    right = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    even = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(0.75)]])
    expected = (0.5**2 + 2 * (math.sqrt(0.5) - 0.5) ** 2) / 3 / 2
    assert relational_angle_loss(right, even).item() == pytest.approx(expected, rel=1e-5)


@BOTH
def test_gradients_are_right_and_none_reaches_the_teacher(loss) -> None:
    student, teacher = vectors(4, 3).requires_grad_(), vectors(4, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher.detach()), student)
    loss(student, teacher).backward()
    assert teacher.grad is None


@BOTH
def test_equal_samples_and_large_values_stay_finite(loss) -> None:
    student = torch.full((4, 3), 2e4, dtype=torch.float16)
    student[0] = -2e4
    student.requires_grad_()
    value = loss(student, torch.ones(4, 5))
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(student.grad).all()


@BOTH
def test_maps_are_averaged_and_too_few_samples_refused(loss) -> None:
    maps = samples(4, 3, 2, 2)
    teacher = samples(4, 5, seed=1)
    assert loss(maps, teacher).item() == pytest.approx(loss(maps.mean((2, 3)), teacher).item())
    with pytest.raises(ValueError, match="samples or more"):
        loss(samples(1, 3), samples(1, 3))
