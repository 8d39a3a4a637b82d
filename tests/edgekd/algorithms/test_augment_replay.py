import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import samples

from edgekd.algorithms.augment_replay import augment_plan, replay

indices = st.lists(st.integers(0, 10**9), min_size=1, max_size=6, unique=True)


@given(indices, st.integers(0, 2**40), st.randoms())
def test_a_samples_plan_depends_on_itself_and_the_seed_alone(chosen, seed, random) -> None:
    together = augment_plan(np.array(chosen), seed, 32, 24, "crop-flip")
    order = list(range(len(chosen)))
    random.shuffle(order)
    shuffled = augment_plan(np.array(chosen)[order], seed, 32, 24, "crop-flip")
    for one, other in zip(together, shuffled, strict=True):
        assert torch.equal(one[order], other)
    alone = augment_plan(np.array(chosen[:1]), seed, 32, 24, "crop-flip")
    assert [x[0].item() for x in alone] == [x[0].item() for x in together]


def test_numbers_that_any_machine_and_release_must_give() -> None:
    """Stored teacher outputs are worthless if these change; in Python's integers."""

    def mixed(state: int) -> int:
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
        return state ^ (state >> 31)

    assert mixed(0) == 0xE220A8397B1DCDAF  # the first output of SplitMix64 with the seed 0
    plan = augment_plan(np.arange(50), 7, 32, 16, "crop-flip")
    for index in range(50):
        first = mixed(mixed(mixed(7) ^ index))
        second = mixed(first)
        expected = (first % 9 - 4, second % 5 - 2, mixed(second) >= 2**63)
        assert tuple(x[index].item() for x in plan) == expected


def test_shifts_are_even_and_independent_of_mirroring() -> None:
    plan = augment_plan(np.arange(9000), 3, 32, 32, "crop-flip")
    for shift in (plan.rows, plan.columns):
        counts = torch.bincount(shift + 4, minlength=9)
        assert len(counts) == 9 and (counts - 1000).abs().max() < 150  # five deviations
    assert abs(plan.mirrored.float().mean() - 0.5) < 0.03
    pairs = torch.stack([plan.rows, plan.columns, plan.mirrored.long()]).double()
    assert (torch.corrcoef(pairs) - torch.eye(3)).abs().max() < 0.05
    assert not augment_plan(np.arange(99), 3, 32, 32, "crop").mirrored.any()


def test_epochs_differ() -> None:
    first, second = (augment_plan(np.arange(100), seed, 32, 32, "crop") for seed in (0, 1))
    assert (first.rows == second.rows).float().mean() < 0.3


def test_none_leaves_images_as_they_are() -> None:
    images = samples(3, 2, 8, 8)
    assert torch.equal(replay(images, augment_plan(np.arange(3), 1, 8, 8, "none")), images)
    table = samples(3, 5)
    assert replay(table, augment_plan(np.arange(3), 1, 8, 8, "none")) is table


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (17, 9)])
def test_a_plan_is_carried_out_pixel_by_pixel(shape: tuple[int, int]) -> None:
    height, width = shape
    images = samples(6, 2, height, width)
    plan = augment_plan(np.arange(6), 5, height, width, "crop-flip")
    found = replay(images, plan)

    def inside(place: int, size: int) -> int:
        place = abs(place)
        return place if place < size else 2 * (size - 1) - place

    for n in range(6):
        for y in range(height):
            for x in range(width):
                column = width - 1 - x if plan.mirrored[n] else x
                row = inside(y + int(plan.rows[n]), height)
                column = inside(column + int(plan.columns[n]), width)
                assert torch.equal(found[n, :, y, x], images[n, :, row, column])


def test_a_replay_is_exact_in_any_batch() -> None:
    images = samples(8, 3, 16, 16)
    whole = replay(images, augment_plan(np.arange(8), 9, 16, 16, "crop-flip"))
    some = np.array([6, 1])
    again = replay(images[some], augment_plan(some, 9, 16, 16, "crop-flip"))
    assert torch.equal(again, whole[some])


def test_plans_that_do_not_fit_are_refused() -> None:
    plan = augment_plan(np.arange(40), 1, 64, 64, "crop")
    with pytest.raises(ValueError, match="does not fit"):
        replay(samples(2, 1, 64, 64), plan)
    with pytest.raises(ValueError, match="larger images"):
        replay(samples(40, 1, 8, 8), plan)
    for bad in ((np.array([-1]), 0), (np.array([1]), -1)):
        with pytest.raises(ValueError, match="numbered from 0"):
            augment_plan(*bad, 8, 8, "crop")
