import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import samples

from edgekd.algorithms.token_mask import (
    hide_patches,
    patches,
    random_mask,
    restored,
    visible_tokens,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(st.integers(1, 4), st.integers(1, 20), st.floats(0, 0.99), st.integers(0, 99))
def test_visible_and_hidden_tokens_make_up_all(
    n: int, tokens: int, ratio: float, seed: int
) -> None:
    mask = random_mask(n, tokens, ratio, generator(seed))
    visible = max(int(tokens * (1 - ratio)), 1)
    assert mask.kept.shape == (n, visible)
    assert (mask.masked.sum(1) == tokens - visible).all()
    assert not mask.masked.gather(1, mask.kept).any()
    values = samples(n, tokens, 3, seed=seed)
    back = restored(visible_tokens(values, mask), mask, torch.full((3,), 9.0))
    assert torch.equal(back[~mask.masked], values[~mask.masked])
    assert (back[mask.masked] == 9).all()


def test_the_generator_decides() -> None:
    first, again, other = (random_mask(8, 16, 0.75, generator(s)) for s in (1, 1, 2))
    assert torch.equal(first.masked, again.masked) and not torch.equal(first.masked, other.masked)
    assert len({tuple(row) for row in first.masked.tolist()}) > 1  # not the same for all images


def test_every_token_is_hidden_equally_often() -> None:
    share = random_mask(4000, 8, 0.75, generator()).masked.float().mean(0)
    assert (share - 0.75).abs().max() < 0.03  # four deviations are .027


def test_patches_hold_the_pixels_of_their_square() -> None:
    images = torch.arange(2 * 4 * 6.0).reshape(1, 2, 4, 6)
    found = patches(images, 2)
    assert found.shape == (1, 6, 8)
    assert torch.equal(found[0, 4], images[0, :, 2:4, 2:4].flatten())
    with pytest.raises(ValueError, match="fill"):
        patches(images, 4)


def test_painting_over_hides_exactly_the_masked_patches() -> None:
    images = samples(3, 2, 4, 6) + 10
    mask = random_mask(3, 6, 0.5, generator())
    found = patches(hide_patches(images, mask, 2), 2)
    assert (found[mask.masked] == 0).all()
    assert torch.equal(found[~mask.masked], patches(images, 2)[~mask.masked])
    with pytest.raises(ValueError, match="is not for"):
        hide_patches(images[:2], mask, 2)
    with pytest.raises(ValueError, match="fill"):
        hide_patches(images, mask, 4)


@pytest.mark.parametrize("ratio", [-0.1, 1.0])
def test_other_ratios_are_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match="hides"):
        random_mask(1, 4, ratio, generator())
