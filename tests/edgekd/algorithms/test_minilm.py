import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import samples

from edgekd.algorithms.minilm import joined_heads, minilm_loss, relation_loss

BOTH = pytest.mark.parametrize("loss", [minilm_loss, relation_loss])


def parts(width: int, seed: int = 0, count: int = 2, tokens: int = 4) -> list[torch.Tensor]:
    return [samples(count, tokens, width, seed=seed + i).double() for i in range(3)]


def plain(pairs: list[tuple[int, int]], student, teacher, heads: int, lengths: list[int]) -> float:
    """The formula in numpy, one sequence cut to its length and one head at a time."""

    def table(tensors, a: int, b: int, sample: int, head: int, length: int) -> np.ndarray:
        size = tensors[0].shape[-1] // heads
        part = slice(head * size, (head + 1) * size)
        x, y = (tensors[i][sample, :length, part].numpy() for i in (a, b))
        scores = np.exp(x @ y.T / math.sqrt(size))
        return scores / scores.sum(1, keepdims=True)

    total = 0.0
    for a, b in pairs:
        for sample, length in enumerate(lengths):
            for head in range(heads):
                p = table(teacher, a, b, sample, head, length)
                q = table(student, a, b, sample, head, length)
                total += (p * np.log(p / q)).sum() / heads / length / len(lengths)
    return total


def test_both_are_the_formulas_written_out_for_unlike_widths_and_padding() -> None:
    student, teacher = parts(4), parts(6, seed=9)
    lengths = [4, 2]
    valid = torch.arange(4)[None] < torch.tensor(lengths)[:, None]
    for x in (*student, *teacher):
        x[~valid] = math.inf
    found = minilm_loss(student, teacher, heads=2, valid=valid).item()
    assert found == pytest.approx(plain([(0, 1), (2, 2)], student, teacher, 2, lengths))
    found = relation_loss(student, teacher, heads=2, weights=(3, 0, 0), valid=valid).item()
    assert found == pytest.approx(3 * plain([(0, 0)], student, teacher, 2, lengths))
    mean = plain([(0, 0), (1, 1), (2, 2)], student, teacher, 2, lengths) / 3
    assert relation_loss(student, teacher, heads=2, valid=valid).item() == pytest.approx(mean)


@BOTH
@given(st.integers(0, 99))
def test_rotating_values_within_a_head_does_not_count(loss, seed: int) -> None:
    student, teacher = parts(4), parts(6, seed=9)
    rotations = [torch.linalg.qr(samples(2, 2, seed=seed + i).double()).Q for i in range(2)]
    turned = [*student[:2], student[2] @ torch.block_diag(*rotations)]
    value = loss(student, teacher, heads=2).item()
    assert loss(turned, teacher, heads=2).item() == pytest.approx(value)


@BOTH
@given(st.permutations(range(3)))
def test_order_of_heads_does_not_count_and_equal_modules_cost_nothing(
    loss, order: list[int]
) -> None:
    student, teacher = parts(6), parts(12, seed=9)
    value = loss(student, teacher, heads=3).item()

    def shuffled(x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (3, -1))[:, :, order].flatten(2)

    moved = [[shuffled(x) for x in side] for side in (student, teacher)]
    assert loss(*moved, heads=3).item() == pytest.approx(value)
    assert value > 0 and loss(teacher, teacher, heads=3).item() == pytest.approx(0, abs=1e-12)


@BOTH
def test_gradients_are_right_and_none_reaches_the_teacher(loss) -> None:
    student = [x.requires_grad_() for x in parts(2, count=1, tokens=3)]
    teacher = [x.requires_grad_() for x in parts(4, seed=9, count=1, tokens=3)]
    fixed = [x.detach() for x in teacher]
    assert torch.autograd.gradcheck(lambda *s: loss(s, fixed, heads=2), student)
    loss(student, teacher, heads=2).backward()
    assert all(x.grad is None for x in teacher) and all(x.grad is not None for x in student)


@BOTH
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_values_and_empty_sequences_stay_finite(loss, dtype: torch.dtype) -> None:
    student = [(60 * x).to(dtype).requires_grad_() for x in parts(4)]
    teacher = [(-60 * x).to(dtype) for x in parts(4, seed=9)]
    valid = torch.tensor([[True] * 4, [False] * 4])
    value = loss(student, teacher, heads=2, valid=valid)
    value.backward()
    assert torch.isfinite(value) and all(torch.isfinite(x.grad).all() for x in student)
    alone = loss([x[:1] for x in student], [x[:1] for x in teacher], heads=2)
    assert value.item() == pytest.approx(alone.item(), rel=1e-5)


def test_heads_are_joined_one_behind_the_other() -> None:
    x = samples(2, 3, 5, 4)
    assert torch.equal(joined_heads(x)[:, :, 4:8], x[:, 1])


@BOTH
def test_what_does_not_fit_is_refused(loss) -> None:
    with pytest.raises(ValueError, match="width of 4 does not split into 3"):
        loss(parts(4), parts(6), heads=3)
    with pytest.raises(ValueError, match="same samples and tokens"):
        loss(parts(4), parts(4, tokens=5), heads=2)
    with pytest.raises(ValueError, match="mask"):
        loss(parts(4), parts(4), heads=2, valid=torch.ones(2, 5, dtype=torch.bool))
