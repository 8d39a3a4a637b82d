import pytest
import torch
from networks import samples

from edgekd.algorithms.context_loss import context_loss
from edgekd.algorithms.selective_fusion import SelectiveFusion, fusion_loss


def maps(seed: int = 0, channels: tuple[int, ...] = (2, 3, 4)) -> list[torch.Tensor]:
    sizes = (8, 4, 2)
    return [samples(2, c, s, s, seed=seed + s) for c, s in zip(channels, sizes, strict=True)]


def fusion(width: int = 8) -> SelectiveFusion:
    torch.manual_seed(0)
    return SelectiveFusion((2, 3, 4), (5, 6, 7), width=width)


def test_fused_maps_have_the_teachers_channels_and_the_students_sizes() -> None:
    found = fusion()(maps())
    assert [tuple(x.shape) for x in found] == [(2, 5, 8, 8), (2, 6, 4, 4), (2, 7, 2, 2)]


def test_deeper_maps_reach_shallower_ones_and_not_the_other_way() -> None:
    inputs = [x.requires_grad_() for x in maps()]
    module = fusion()
    shallow, _, deep = module(inputs)
    reached = torch.autograd.grad(shallow.square().sum(), inputs, retain_graph=True)
    assert all(x.abs().max() > 1e-4 for x in reached)
    reached = torch.autograd.grad(deep.square().sum(), inputs, allow_unused=True)
    assert reached[0] is None and reached[1] is None and reached[2] is not None


def test_shares_of_two_equal_maps_add_up_to_one() -> None:
    """Whatever the shares are, fusing a constant with itself gives it back."""
    module = fusion().eval()
    for layer in (*module.enter, *module.leave):
        layer[0].weight.data.fill_(1 / layer[0].weight[0].numel())
    ones = [torch.ones(1, c, s, s) for c, s in ((2, 8), (3, 4), (4, 2))]
    for fused in module(ones):
        found = fused.detach()
        assert found[:, :, found.shape[2] // 2, found.shape[3] // 2].flatten() == pytest.approx(
            torch.ones(found.shape[1]) * (4 / 9 if found.shape[2] == 2 else 1), rel=1e-3
        )


def test_the_loss_adds_up_stages_and_sends_nothing_to_the_teacher() -> None:
    module, teacher = fusion(), [x.requires_grad_() for x in maps(9, (5, 6, 7))]
    found = module(maps())
    loss = fusion_loss(found, teacher)
    expected = sum(context_loss(*pair).item() for pair in zip(found, teacher, strict=True))
    assert loss.item() == pytest.approx(expected)
    loss.backward()
    assert all(p.grad is not None for p in module.parameters())
    assert all(x.grad is None for x in teacher)
    assert fusion_loss(teacher, teacher).item() == 0


def test_unlike_stages_are_refused() -> None:
    with pytest.raises(ValueError, match="two stages"):
        SelectiveFusion((2,), (3,))
    with pytest.raises(ValueError, match="two stages"):
        SelectiveFusion((2, 3), (3, 4, 5))
    with pytest.raises(ValueError, match="cannot be compared"):
        fusion_loss(maps(), maps()[:2])
