import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import samples

from edgekd.algorithms.squarehead import squarehead_loss

SHAPES = ((4, 3, 2, 2), (4, 5), (4, 6, 3))


def features(seed: int) -> list[torch.Tensor]:
    return [samples(*shape, seed=seed + i) for i, shape in enumerate(SHAPES)]


@given(st.lists(st.floats(1e-2, 1e2), min_size=3, max_size=3))
def test_the_scale_of_a_layer_does_not_weigh(factors: list[float]) -> None:
    student, teacher = features(0), features(9)
    plain = squarehead_loss(student, teacher).item()
    scaled = (
        [factor * tensor for factor, tensor in zip(factors, tensors, strict=True)]
        for tensors in (student, teacher)
    )
    assert squarehead_loss(*scaled).item() == pytest.approx(plain, rel=1e-4)


def test_nothing_for_equal_and_one_a_layer_for_absent_features() -> None:
    teacher = features(0)
    assert squarehead_loss(teacher, teacher).item() == 0
    absent = squarehead_loss([torch.zeros_like(t) for t in teacher], teacher)
    assert absent.item() == pytest.approx(len(SHAPES))


def test_it_is_a_ratio_of_sums_over_the_batch_added_up_over_layers() -> None:
    # A relative error of 1/4 (half the value missing) and one of 1; in the third the small sample
    # is wrong, which a mean of ratios would count as 1/2.
    teacher = [torch.full((2, 3), 2.0), torch.ones(2, 8), torch.tensor([[3.0], [1.0]])]
    student = [torch.ones(2, 3), torch.zeros(2, 8), torch.tensor([[3.0], [0.0]])]
    assert squarehead_loss(student, teacher).item() == pytest.approx(0.25 + 1 + 0.1)


@given(st.lists(st.integers(0, 5), min_size=2, max_size=4), st.sampled_from([3, 1]))
def test_padded_tokens_do_not_count(lengths: list[int], heads: int) -> None:
    tokens = 5
    valid = torch.arange(tokens)[None] < torch.tensor(lengths)[:, None]
    count = len(lengths)
    student, teacher = samples(count, tokens, heads, 4), samples(count, tokens, heads, 4, seed=1)
    alone = [student[valid]], [teacher[valid]]
    cut = squarehead_loss(*alone).item() if valid.any() else 0.0
    student[~valid], teacher[~valid] = torch.nan, 1e30
    assert squarehead_loss([student], [teacher], valid).item() == pytest.approx(cut, rel=1e-5)
    flat = [x.reshape(count * tokens, -1) for x in (student, teacher)]
    assert squarehead_loss(flat[:1], flat[1:], valid).item() == pytest.approx(cut, rel=1e-5)


def test_a_mask_leaves_tensors_without_tokens_alone() -> None:
    student, teacher = [samples(4, 8)], [samples(4, 8, seed=1)]
    valid = torch.zeros(4, 6, dtype=torch.bool)
    assert torch.equal(squarehead_loss(student, teacher, valid), squarehead_loss(student, teacher))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sums_do_not_overflow_sixteen_bits(dtype: torch.dtype) -> None:
    teacher = torch.full((8, 16, 32, 32), 200.0, dtype=dtype)
    student = torch.full_like(teacher, 100.0)
    assert squarehead_loss([student], [teacher]).item() == pytest.approx(0.25, rel=1e-3)


def test_the_teacher_gets_no_gradient() -> None:
    student = [tensor.requires_grad_() for tensor in features(0)]
    teacher = [tensor.requires_grad_() for tensor in features(9)]
    squarehead_loss(student, teacher).backward()
    assert all(t.grad is not None for t in student) and all(t.grad is None for t in teacher)
