from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgekd.algorithms.cutout import cutout


@given(st.integers(1, 17), st.integers(1, 17), st.integers(0, 99))
def test_the_square_is_as_large_as_the_strength_says(height: int, width: int, seed: int) -> None:
    images = torch.ones(3, 2, height, width)
    strength = torch.tensor([0.0, 0.5, 1.0])
    found = cutout(images, strength, torch.Generator().manual_seed(seed))
    blank = (found == 0).all(1)
    assert torch.equal((found == 0).any(1), blank), "all channels alike"
    assert not blank[0].any()
    for image, share in zip(blank, strength, strict=True):
        assert image.any(1).sum() <= round(float(share) * height / 2)
        assert image.any(0).sum() <= round(float(share) * width / 2)
        assert image.sum() == image.any(1).sum() * image.any(0).sum(), "one rectangle"


def test_half_of_an_images_side_in_its_middle() -> None:
    images = torch.ones(200, 1, 32, 32)
    found = cutout(images, torch.ones(200), torch.Generator().manual_seed(0))
    blank = (found == 0).sum((1, 2, 3))
    assert blank.max() == 16 * 16 and blank.min() >= 8 * 8, "over the border, a quarter is left"


def test_what_is_no_image_stays() -> None:
    rows = torch.ones(2, 3)
    assert cutout(rows, torch.ones(2), torch.Generator()) is rows
    with pytest.raises(ValueError, match="1 strengths do not fit 2 images"):
        cutout(torch.ones(2, 1, 4, 4), torch.ones(1), torch.Generator())
