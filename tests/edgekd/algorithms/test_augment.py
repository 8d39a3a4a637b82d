import pytest
import torch
from networks import samples
from torch import Tensor

from edgekd.algorithms.augment import Augment, augment_images

KINDS: tuple[Augment, ...] = ("none", "crop", "crop-flip")


def augmented(images: Tensor, kind: Augment, seed: int = 0) -> Tensor:
    return augment_images(images, kind, torch.Generator().manual_seed(seed))


def ramp(count: int = 64, size: int = 16) -> Tensor:
    """Images whose pixels name their column."""
    return torch.arange(size, dtype=torch.float32).expand(count, 1, size, size)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(3, 1, 8, 8), (1, 3, 17, 9), (2, 3, 2, 3)])
def test_shape_and_dtype_stay(kind: Augment, shape: tuple[int, ...]) -> None:
    images = samples(*shape)
    found = augmented(images, kind)
    assert found.shape == images.shape and found.dtype == images.dtype
    assert found.is_contiguous()


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_state_gives_the_same_images(kind: Augment) -> None:
    images = samples(8, 3, 12, 12)
    assert torch.equal(augmented(images, kind, 5), augmented(images, kind, 5))
    assert torch.equal(augmented(images, kind, 5), augmented(images, kind, 6)) == (kind == "none")


@pytest.mark.parametrize("kind", KINDS)
def test_only_pixels_of_the_same_image_appear(kind: Augment) -> None:
    images = samples(8, 3, 12, 12)
    for before, after in zip(images, augmented(images, kind), strict=True):
        for channel in range(3):
            assert torch.isin(after[channel], before[channel]).all()


def test_channels_move_together() -> None:
    images = samples(8, 1, 12, 12).repeat(1, 3, 1, 1)
    found = augmented(images, "crop-flip")
    assert torch.equal(found[:, 0], found[:, 1]) and torch.equal(found[:, 0], found[:, 2])


def test_about_half_of_the_images_are_mirrored() -> None:
    rising = augmented(ramp(200), "crop-flip")[:, 0, 8].diff(dim=1).sum(1) > 0
    assert 70 <= int(rising.sum()) <= 130
    assert (augmented(ramp(200), "crop")[:, 0, 8].diff(dim=1).sum(1) > 0).all()


def test_images_shift_by_up_to_an_eighth() -> None:
    centre = augmented(ramp(200), "crop")[:, 0, 8, 8]
    assert set(centre.tolist()) == {6.0, 7.0, 8.0, 9.0, 10.0}


def test_nothing_happens_to_what_is_not_an_image() -> None:
    for kind, x in (("none", samples(2, 3, 8, 8)), ("crop-flip", samples(4, 10))):
        assert augmented(x, kind) is x  # type: ignore[arg-type]


def test_images_of_one_pixel_can_be_augmented() -> None:
    assert augmented(samples(2, 1, 1, 1), "crop").shape == (2, 1, 1, 1)
