import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from networks import samples

from edgekd.algorithms.adaptive_masks import (
    AdaptiveMasks,
    mask_diversity_loss,
    masked_imitation_loss,
)


def maps(seed: int = 0) -> torch.Tensor:
    return samples(2, 4, 3, 2, seed=seed).double()


def masks(seed: int = 0, count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    channels = samples(2, count, 4, seed=seed).double().sigmoid()
    return channels, samples(2, count, 3, 2, seed=seed + 1).double().sigmoid()


@given(st.floats(0.01, 1), st.integers(1, 5))
def test_constant_masks_give_twice_the_squared_error_at_any_level(level: float, count: int) -> None:
    constant = (torch.full((2, count, 4), level), torch.full((2, count, 3, 2), level))
    found = masked_imitation_loss(maps(), maps(1), *(x.double() for x in constant))
    assert found.item() == pytest.approx(2 * F.mse_loss(maps(), maps(1)).item())


def test_a_mask_of_zeros_and_ones_picks_channels_and_places() -> None:
    channels, places = torch.zeros(2, 1, 4).double(), torch.zeros(2, 1, 3, 2).double()
    channels[:, :, 1] = places[:, :, 2, 0] = 1
    errors = (maps() - maps(1)).square()
    expected = errors[:, 1].mean() + errors[:, :, 2, 0].mean()
    found = masked_imitation_loss(maps(), maps(1), channels, places)
    assert found.item() == pytest.approx(expected.item())


def test_equal_maps_cost_nothing_and_the_order_of_masks_does_not_count() -> None:
    assert masked_imitation_loss(maps(), maps(), *masks()).item() == 0
    plain = masked_imitation_loss(maps(), maps(1), *masks()).item()
    turned = (x.flip(1) for x in masks())
    assert masked_imitation_loss(maps(), maps(1), *turned).item() == pytest.approx(plain)
    for kind in masks():
        turned_back = mask_diversity_loss(kind.flip(1)).item()
        assert turned_back == pytest.approx(mask_diversity_loss(kind).item())


@given(st.integers(1, 6))
def test_diversity_is_zero_for_disjoint_and_highest_for_equal_masks(count: int) -> None:
    same = samples(1, 1, 6).sigmoid().expand(2, count, 6)
    assert mask_diversity_loss(same).item() == pytest.approx(count - 1, abs=1e-5)
    disjoint = torch.eye(6)[:count].expand(2, count, 6)
    assert mask_diversity_loss(disjoint).item() == pytest.approx(0, abs=1e-6)


def test_diversity_worked_out_by_hand() -> None:
    # <(1, 1), (1, 0)> counts twice, the squares are 2 and 1: 2 * 2 / (3 + 3).
    pair = torch.tensor([[[1.0, 1.0], [1.0, 0.0]]])
    assert mask_diversity_loss(pair).item() == pytest.approx(2 / 3)


def test_masks_follow_student_and_teacher_and_learn() -> None:
    torch.manual_seed(0)
    module = AdaptiveMasks(4, 3).double()
    student, teacher = maps().requires_grad_(), maps(1).requires_grad_()
    channels, places = module(student, teacher)
    assert channels.shape == (2, 3, 4) and places.shape == (2, 3, 3, 2)
    assert all(((x > 0) & (x < 1)).all() for x in (channels, places))
    others = [module(maps(2), maps(1)), module(maps(), maps(2))]
    assert all(not torch.allclose(channels, other[0]) for other in others)
    loss = masked_imitation_loss(student, teacher, channels, places)
    (loss + mask_diversity_loss(channels) + mask_diversity_loss(places)).backward()
    assert teacher.grad is None and student.grad.abs().max() > 1e-4
    assert all(p.grad.abs().max() > 0 for p in module.parameters())


def test_attention_is_as_written() -> None:
    torch.manual_seed(0)
    module = AdaptiveMasks(4, 3).double()
    s, t = (x.flatten(2).mT for x in (maps(), maps(1)))
    scores = module.query(t) @ module.key(s).mT / 2**0.5
    fused = scores.softmax(-1) @ module.value(s)
    channels, places = module(maps(), maps(1))
    expected = torch.einsum("m,nc->nmc", module.channel_units, fused.mean(1)).sigmoid()
    assert torch.allclose(channels, expected)
    expected = torch.einsum("mc,npc->nmp", module.place_units, fused).sigmoid()
    assert torch.allclose(places.flatten(2), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_squares_do_not_overflow_sixteen_bits(dtype: torch.dtype) -> None:
    teacher = torch.full((2, 4, 3, 2), 3000.0, dtype=dtype)
    halves = [x.to(dtype) for x in masks()]
    found = masked_imitation_loss(-teacher, teacher, *halves)
    assert found.item() == pytest.approx(7.2e7, rel=0.01)
    assert torch.isfinite(AdaptiveMasks(4)(teacher, teacher)[0]).all()


def test_what_cannot_be_masked_is_refused() -> None:
    with pytest.raises(ValueError, match="two channels"):
        AdaptiveMasks(1)
    with pytest.raises(ValueError, match="place by place"):
        masked_imitation_loss(maps(), maps()[:, :2], *masks())
