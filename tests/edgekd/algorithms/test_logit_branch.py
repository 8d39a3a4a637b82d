import pytest
import torch
from networks import build, samples
from torch import nn

from edgekd.algorithms.feature_shapes import map_of_tokens, tokens_of_map
from edgekd.algorithms.logit_branch import MapBranch, TokenBranch


@pytest.mark.parametrize("halvings", [0, 1, 3])
def test_a_map_becomes_logits_through_as_many_halvings(halvings: int) -> None:
    branch = build(lambda: MapBranch(4, 10, 7, halvings=halvings)).train()
    convolutions = [layer for layer in branch.modules() if isinstance(layer, nn.Conv2d)]
    assert sum(layer.stride == (2, 2) for layer in convolutions) == halvings
    assert convolutions[-1].out_channels == 10
    maps = samples(2, 4, 16, 16).requires_grad_()
    logits = branch(maps)
    assert logits.shape == (2, 7)
    logits.square().sum().backward()
    assert maps.grad is not None and maps.grad.abs().sum() > 0
    assert all(weight.grad is not None for weight in branch.parameters())


def test_channels_double_up_to_the_width() -> None:
    branch = MapBranch(4, 10, 7, halvings=3)
    pointwise = [x for x in branch.modules() if isinstance(x, nn.Conv2d) and x.groups == 1]
    assert [x.out_channels for x in pointwise] == [4, 8, 8, 16, 16, 10]


@pytest.mark.parametrize(
    ("side", "special", "channels", "left"), [(4, 0, 8, 16), (7, 1, 6, 49), (28, 2, 6, 49)]
)
def test_tokens_become_logits_after_merging(
    side: int, special: int, channels: int, left: int
) -> None:
    def make() -> TokenBranch:
        return TokenBranch(channels, 8, 5, side=side, special=special, blocks=2)

    branch = build(make)
    seen = []
    branch.blocks.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    tokens = samples(2, special + side * side, channels).requires_grad_()
    logits = branch(tokens)
    assert logits.shape == (2, 5) and seen == [(2, left + special, 8)]
    logits.square().sum().backward()
    assert tokens.grad is not None and tokens.grad.abs().sum() > 0


def test_without_special_tokens_the_order_of_patches_does_not_count() -> None:
    branch = build(lambda: TokenBranch(8, 8, 5, side=3))
    tokens = samples(2, 9, 8)
    order = torch.tensor([3, 8, 0, 1, 7, 2, 6, 5, 4])
    assert torch.allclose(branch(tokens[:, order]), branch(tokens), atol=1e-5)


def test_merging_joins_neighbours() -> None:
    """A change of one patch reaches the one merged token of its square, before any attention."""
    branch = build(lambda: TokenBranch(8, 8, 5, side=4, smallest=2, blocks=0))
    merged = []
    branch.blocks.register_forward_pre_hook(lambda _, inputs: merged.append(inputs[0]))
    tokens = samples(1, 16, 8)
    changed = map_of_tokens(tokens.clone())
    changed[:, :, 1, 2] += 1
    branch(tokens), branch(tokens_of_map(changed))
    differs = (merged[0] - merged[1]).abs().sum(-1)[0] > 1e-6
    assert differs.tolist() == [False, True, False, False]


def test_what_cannot_be_built_is_refused() -> None:
    with pytest.raises(ValueError, match="halved 1 times"):
        TokenBranch(8, 8, 5, side=15)
    with pytest.raises(ValueError, match="four heads"):
        TokenBranch(8, 6, 5, side=7)
