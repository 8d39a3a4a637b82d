import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import samples

from edgekd.algorithms.global_mask import block_masks, unstructured_masks


def zeros(masks: list[torch.Tensor]) -> int:
    return sum(int((~mask).sum()) for mask in masks)


@given(sparsity=st.floats(0, 0.98), seed=st.integers(0, 5), spread=st.floats(0.01, 100))
def test_exactly_the_lowest_scores_of_all_go(sparsity: float, seed: int, spread: float) -> None:
    scores = [samples(7, 9, seed=seed).abs(), spread * samples(40, 5, seed=seed + 9).abs()]

    masks = unstructured_masks(scores, sparsity, least_share=0.0)

    # One weight of each tensor is safe, whatever it costs.
    assert zeros(masks) == min(round(sparsity * 263), 261)
    assert all(mask.any() for mask in masks)
    gone = torch.cat([s[~m] for s, m in zip(scores, masks, strict=True)])
    tops = [torch.where(s == s.max(), torch.inf, s) for s in scores]
    stays = torch.cat([s[m] for s, m in zip(tops, masks, strict=True)])
    assert not len(gone) or gone.max() <= stays.min()


def test_no_layer_is_emptied() -> None:
    small, large = torch.full((10, 10), 1e-6), torch.ones(10, 10)
    masks = unstructured_masks([small, large], 0.5, least_share=0.1)
    assert int(masks[0].sum()) == 10 and zeros(masks) == 100


def test_the_guard_wins_over_a_sparsity_that_it_does_not_allow() -> None:
    masks = unstructured_masks([torch.ones(10, 10)], 0.99, least_share=0.1)
    assert zeros(masks) == 90


def test_of_equal_scores_the_first_stay() -> None:
    (mask,) = unstructured_masks([torch.ones(4)], 0.5)
    assert mask.tolist() == [True, True, False, False]


def test_a_higher_sparsity_takes_more_of_the_same() -> None:
    scores = [samples(20, 20).abs()]
    (few,), (many,) = (unstructured_masks(scores, share) for share in (0.3, 0.7))
    assert not (many & ~few).any()


def test_blocks_go_as_a_whole_and_in_the_right_number() -> None:
    scores = [samples(8, 6, 3, 3).abs(), samples(4, 4, seed=1).abs()]

    masks = block_masks(scores, 0.5, (4, 2), least_share=0.0)

    folded = [mask.reshape(-1, 4, mask.shape[1] // 2, 2, *mask.shape[2:]) for mask in masks]
    assert all((f.all(1).all(2) | ~f.any(1).any(2)).all() for f in folded)
    assert zeros(masks) == 8 * round(0.5 * (2 * 3 * 9 + 1 * 2))


def test_blocks_are_ranked_by_their_mean() -> None:
    weight = torch.tensor([[9.0, 2.0], [0.0, 2.0]])
    (mask,) = block_masks([weight], 0.5, (2, 1))
    assert mask.tolist() == [[True, False], [True, False]]


def test_blocks_must_fill_the_weight() -> None:
    with pytest.raises(ValueError, match="do not fill"):
        block_masks([samples(6, 4)], 0.5, (4, 1))
