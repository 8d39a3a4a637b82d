import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import samples

from edgekd.algorithms.nm_mask import nm_mask


@given(
    outputs=st.integers(1, 5),
    groups=st.integers(1, 4),
    size=st.integers(2, 8),
    kept=st.integers(1, 8),
    kernel=st.sampled_from([(), (3,), (2, 3)]),
    seed=st.integers(0, 5),
)
def test_every_group_keeps_exactly_n(
    outputs: int, groups: int, size: int, kept: int, kernel: tuple[int, ...], seed: int
) -> None:
    kept = min(kept, size)
    mask = nm_mask(samples(outputs, groups * size, *kernel, seed=seed).abs(), kept, size)

    counts = mask.reshape(outputs, groups, size, -1).sum(2)
    assert (counts == kept).all()


def test_groups_lie_along_the_inputs_at_each_place_of_the_kernel() -> None:
    weight = torch.zeros(1, 4, 1, 2)
    weight[0, :, 0, 0] = torch.tensor([4.0, 3.0, 2.0, 1.0])
    weight[0, :, 0, 1] = torch.tensor([1.0, 2.0, 3.0, 4.0])

    mask = nm_mask(weight, 2, 4)

    assert mask[0, :, 0, 0].tolist() == [True, True, False, False]
    assert mask[0, :, 0, 1].tolist() == [False, False, True, True]


def test_the_largest_sum_of_all_choices_is_kept() -> None:
    scores = samples(6, 12).abs()
    found = (scores * nm_mask(scores, 2, 4)).reshape(6, 3, 4).sum(2)
    pairs = torch.combinations(torch.arange(4), 2)
    best = scores.reshape(6, 3, 4)[..., pairs].sum(-1).amax(-1)
    assert torch.allclose(found, best)


def test_of_equal_scores_the_first_stays() -> None:
    assert nm_mask(torch.ones(1, 8), 2, 4).tolist() == [[True, True, False, False] * 2]


@pytest.mark.parametrize(("inputs", "kept", "size"), [(6, 2, 4), (8, 5, 4), (8, 0, 4)])
def test_what_does_not_fit_is_refused(inputs: int, kept: int, size: int) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        nm_mask(samples(2, inputs), kept, size)
