import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import samples

from edgekd.algorithms.align_gradients import align_gradients


def dot(first, second) -> float:
    pairs = zip(first, second, strict=True)
    return sum((a * b).sum().item() for a, b in pairs if a is not None and b is not None)


@given(st.integers(0, 1000))
def test_what_is_left_never_works_against_the_first(seed: int) -> None:
    first = [samples(3, 2, seed=seed).double(), samples(4, seed=seed + 1).double()]
    second = [samples(3, 2, seed=seed + 2).double(), samples(4, seed=seed + 3).double()]
    before = [gradient.clone() for gradient in first]

    found = align_gradients(first, second)

    assert dot(first, found) >= -1e-9
    assert all(torch.equal(a, b) for a, b in zip(first, before, strict=True))
    if dot(first, second) >= 0:
        assert all(torch.equal(a, b) for a, b in zip(found, second, strict=True))
    else:
        assert dot(first, found) == pytest.approx(0, abs=1e-9)


def test_a_case_worked_out_by_hand() -> None:
    # <(1, 2), (1, -2)> = -3, |(1, 2)|^2 = 5: (1, -2) + 3/5 (1, 2) = (8/5, -4/5).
    found = align_gradients(
        [torch.tensor([1.0]), torch.tensor([2.0])],
        [
            torch.tensor([1.0]),
            torch.tensor([-2.0]),
        ],
    )
    assert [x.item() for x in found if x is not None] == pytest.approx([1.6, -0.8])


def test_a_head_that_one_loss_does_not_use_counts_as_zeros() -> None:
    # The first head's gradient 2 is in |g1|^2 = 5 and takes its part of the projection.
    found = align_gradients(
        [torch.tensor([1.0]), torch.tensor([2.0]), None],
        [torch.tensor([-5.0]), None, torch.tensor([7.0])],
    )
    assert [x.item() for x in found if x is not None] == pytest.approx([-4, 2, 7])
    assert align_gradients([None], [torch.tensor(1.0)]) == [torch.tensor(1.0)]


def test_a_first_gradient_of_zeros_changes_nothing() -> None:
    found = align_gradients([torch.zeros(2)], [torch.ones(2)])
    assert torch.equal(found[0], torch.ones(2))


def test_lists_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="align"):
        align_gradients([torch.ones(1)], [])
