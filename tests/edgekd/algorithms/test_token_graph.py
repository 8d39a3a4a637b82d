import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import build, samples

from edgekd.algorithms.contrastive_loss import contrastive_loss
from edgekd.algorithms.token_graph import TokenGraphLoss, inner_context_loss, neighbourhood_loss


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return samples(*shape, seed=seed).double()


@given(st.floats(0.01, 100), st.integers(0, 99), st.permutations(range(6)))
def test_rotations_scales_and_a_shared_order_do_not_count_among_neighbours(
    scale: float, seed: int, order: list[int]
) -> None:
    student, teacher = tokens(6, 3), tokens(6, 4, seed=1)
    rotation = torch.linalg.qr(tokens(3, 3, seed=seed + 2)).Q
    value = neighbourhood_loss(student, teacher, neighbours=3).item()
    moved = scale * student[order] @ rotation + 1
    assert neighbourhood_loss(moved, teacher[order], neighbours=3).item() == pytest.approx(value)
    assert value > 0
    assert neighbourhood_loss(moved, student[order], neighbours=3).item() == pytest.approx(
        0, abs=1e-9
    )


def test_the_neighbourhood_is_the_formula_written_out() -> None:
    student, teacher, k = tokens(5, 2).numpy(), tokens(5, 3, seed=1).numpy(), 2
    distance = ((teacher[:, None] - teacher[None]) ** 2).sum(-1)
    near = [sorted(set(range(5)) - {i}, key=lambda j, i=i: distance[i, j])[:k] for i in range(5)]

    def rows(x: np.ndarray) -> np.ndarray:
        squares = np.array([[((x[i] - x[j]) ** 2).sum() for j in near[i]] for i in range(5)])
        weights = np.exp(np.exp(-squares / (2 * squares.mean())))
        return weights / weights.sum(1, keepdims=True)

    p, q = rows(teacher), rows(student)
    found = neighbourhood_loss(torch.from_numpy(student), torch.from_numpy(teacher), neighbours=k)
    assert found.item() == pytest.approx((p * np.log(p / q)).sum() / 5)


@given(st.permutations(range(4)), st.integers(0, 99))
def test_context_knows_no_order_and_no_rotation(order: list[int], seed: int) -> None:
    student, teacher = tokens(2, 4, 3), tokens(2, 4, 5, seed=1)
    rotation = torch.linalg.qr(tokens(3, 3, seed=seed + 2)).Q
    value = inner_context_loss(student, teacher).item()
    assert inner_context_loss(
        student[:, order] @ rotation, teacher[:, order]
    ).item() == pytest.approx(value)
    assert value > 0 and inner_context_loss(teacher, teacher).item() == 0


def test_a_context_worked_out_by_hand() -> None:
    # Student: all similarities equal, so halves. Teacher: rows (2 log 3, 0) / sqrt 4 and (0, 0).
    teacher = torch.zeros(1, 2, 4)
    teacher[0, 0, 1] = math.sqrt(2 * math.log(3))
    found = inner_context_loss(torch.zeros(1, 2, 3), teacher).item()
    assert found == pytest.approx((0.25**2 + 0.25**2) / 4, rel=1e-5)


def test_the_module_adds_the_three_up() -> None:
    module = build(lambda: TokenGraphLoss(3, 5, weights=(2.0, 3.0, 5.0), neighbours=2))
    student, teacher = samples(2, 4, 3), samples(2, 4, 5, seed=1)
    own, other = student.flatten(0, 1), teacher.flatten(0, 1)  # all are drawn; order is nothing
    expected = 2 * inner_context_loss(student, teacher)
    expected = expected + 3 * neighbourhood_loss(own, other, neighbours=2)
    expected = expected + 5 * contrastive_loss(module.projector(own), other, temperature=0.1)
    assert module(student, teacher).item() == pytest.approx(expected.item(), rel=1e-4)


def test_student_and_teacher_are_drawn_at_the_same_places() -> None:
    module = TokenGraphLoss(6, 6, weights=(0.0, 0.0, 1.0), tokens=8, neighbours=2, temperature=0.01)
    torch.nn.init.eye_(module.projector.linear.weight)
    torch.nn.init.zeros_(module.projector.linear.bias)
    same = samples(4, 6, 6)
    assert module(same, same).item() < 0.05  # each token finds itself
    assert module(same, same.flip(1)).item() > 1


def test_gradients_are_right_and_none_reaches_the_teacher() -> None:
    student, teacher = tokens(2, 3, 2).requires_grad_(), tokens(2, 3, 4, seed=1).requires_grad_()
    neighbourhood_loss(student[0], teacher[0], neighbours=2).backward()
    assert student.grad is not None and teacher.grad is None
    assert torch.autograd.gradcheck(lambda s: inner_context_loss(s, teacher.detach()), student)
    module = build(lambda: TokenGraphLoss(2, 4, neighbours=2)).double()
    module(student, teacher).backward()
    assert student.grad is not None and teacher.grad is None
    large = (300 * samples(2, 3, 2)).half().requires_grad_()
    value = inner_context_loss(large, -large) + neighbourhood_loss(
        large[0], -large[1], neighbours=1
    )
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(large.grad).all()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="no 5 neighbours"):
        neighbourhood_loss(tokens(5, 2), tokens(5, 2), neighbours=5)
    with pytest.raises(ValueError, match="same samples and tokens"):
        TokenGraphLoss(3, 3)(samples(2, 9, 3), samples(2, 10, 3))
