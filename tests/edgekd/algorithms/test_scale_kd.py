import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import build, samples

from edgekd.algorithms.scale_kd import AttentionProjector, dual_view_loss, without_mean


def maps(seed: int = 0) -> torch.Tensor:
    return samples(2, 3, 4, 4, seed=seed).double()


@given(st.floats(0.01, 100), st.floats(0.01, 100), st.floats(-9, 9))
def test_scales_count_in_neither_view_and_shifts_not_in_the_one_without_mean(
    scale: float, other: float, shift: float
) -> None:
    a, b, teacher = maps(), maps(1), maps(2)
    value = dual_view_loss(a, b, teacher).item()
    shifts = torch.tensor([shift, -1.0, 2.0]).double()[:, None, None]
    assert dual_view_loss(scale * a, other * b + shifts, teacher).item() == pytest.approx(value)


def test_a_shift_counts_in_the_direct_view() -> None:
    a, b, teacher = maps(), maps(1), maps(2)
    shifted = a + torch.tensor([3.0, -1.0, 2.0]).double()[:, None, None]
    direct = dual_view_loss(shifted, b, teacher, weights=(1, 0)).item()
    assert direct > 1.05 * dual_view_loss(a, b, teacher, weights=(1, 0)).item()


def test_equal_maps_cost_nothing_and_opposite_ones_the_most() -> None:
    teacher = maps()
    assert dual_view_loss(teacher, 3 * teacher + 1, teacher).item() == pytest.approx(0, abs=1e-12)
    most = dual_view_loss(-teacher, -teacher, teacher, weights=(1, 1)).item()
    assert most == pytest.approx(2 * 4 * 16)  # two views, |n - -n|^2 = 4 at each place


def test_the_removal_of_the_mean_is_that_of_the_transform_s_constant_term() -> None:
    """What the source does, with a cosine transform written out."""
    size = 4
    k, n = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
    table = np.cos(math.pi * (n + 0.5) * k / size)
    x = maps().numpy()
    spectrum = table @ x @ table.T
    spectrum[:, :, 0, 0] = 0
    inverse = np.linalg.inv(table)
    assert np.allclose(inverse @ spectrum @ inverse.T, without_mean(maps()).numpy())


def test_a_case_worked_out_by_hand() -> None:
    # Two places, two channels. Direct: (3, 4)/5 against (1, 0), and (0, 1) against (0, 1).
    # Centred: student ((1, 0), (-1, 0)), teacher ((1, -1), (-1, 1)) / 2.
    student = torch.tensor([[3.0, 0.0], [4.0, 2.0]]).reshape(1, 2, 1, 2)
    centred = torch.tensor([[3.0, 1.0], [5.0, 5.0]]).reshape(1, 2, 1, 2)
    teacher = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).reshape(1, 2, 1, 2)
    half = math.sqrt(0.5)
    direct, other = 0.4**2 + 0.8**2, 2 * ((1 - half) ** 2 + half**2)
    found = dual_view_loss(student, centred, teacher, weights=(1, 10)).item()
    assert found == pytest.approx(direct + 10 * other, rel=1e-5)


def test_gradients_are_right_and_none_reaches_the_teacher() -> None:
    a, b, teacher = (maps(i)[:1, :, :2, :2].requires_grad_() for i in range(3))
    assert torch.autograd.gradcheck(lambda x, y: dual_view_loss(x, y, teacher.detach()), (a, b))
    dual_view_loss(a, b, teacher).backward()
    assert a.grad is not None and b.grad is not None and teacher.grad is None
    large = (1e4 * maps()).half().requires_grad_()
    dual_view_loss(large, large, torch.zeros_like(large)).backward()
    assert torch.isfinite(large.grad).all()


def test_unlike_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="teacher's shape"):
        dual_view_loss(maps(), maps(), maps()[:, :2])
    with pytest.raises(ValueError, match="share 12 channels"):
        AttentionProjector(4, 12, (2, 2))


@pytest.mark.parametrize("size", [(2, 3), (8, 8), (1, 1)])
def test_any_map_is_projected_to_the_teacher_s_grid(size: tuple[int, int]) -> None:
    projector = build(lambda: AttentionProjector(5, 8, (2, 3), heads=4)).train()
    student = samples(2, 5, *size).requires_grad_()
    found = projector(student)
    assert found.shape == (2, 8, 2, 3)
    dual_view_loss(found, found, samples(2, 8, 2, 3, seed=1)).backward()
    assert student.grad is not None
    assert all(weight.grad is not None for weight in projector.parameters())


def test_places_stay_in_order_and_given_queries_replace_the_learned_ones() -> None:
    projector = build(lambda: AttentionProjector(5, 8, (2, 3), heads=4))
    student = samples(2, 5, 2, 3)
    queries = samples(1, 6, 8, seed=1)
    asked = projector(student, query=queries.expand(2, -1, -1))
    swapped = projector(student, query=queries[:, [5, 1, 2, 3, 4, 0]].expand(2, -1, -1))
    assert torch.allclose(asked[:, :, 0, 0], swapped[:, :, 1, 2], atol=1e-5)
    assert torch.allclose(asked[:, :, 0, 1], swapped[:, :, 0, 1], atol=1e-5)
    assert not torch.allclose(asked, projector(student), atol=1e-3)
