"""Which tensors of two networks belong together."""

from __future__ import annotations

import pytest
import torch
from networks import ResNet, Transformer, build, trace
from torch import Tensor, fx, nn

from edgekd.distillation.pairing import Place, block_places, named_places, pair_places, stage_places
from edgekd.graph.float_form import float_form
from edgekd.loss_settings import Layers


def places(*shapes: tuple[int, ...]) -> list[Place]:
    count = len(shapes)
    return [Place(f"n{i}", shape, (i + 1) / count) for i, shape in enumerate(shapes)]


BIG = places((16, 8, 8), (16, 8, 8), (32, 4, 4), (32, 4, 4), (64, 2, 2), (64, 2, 2))
SMALL = places((8, 8, 8), (16, 4, 4), (32, 2, 2))
TOKENS = places(*[(17, 24)] * 12)


def names(pairs: list[tuple[Place, Place]]) -> list[tuple[str, str]]:
    return [(mine.node, theirs.node) for mine, theirs in pairs]


def test_stages_of_one_resolution_belong_together() -> None:
    assert names(pair_places(SMALL, BIG)) == [("n0", "n1"), ("n1", "n3"), ("n2", "n5")]
    assert names(pair_places(BIG, SMALL)) == [("n1", "n0"), ("n3", "n1"), ("n5", "n2")]


def test_without_the_same_resolution_depth_decides() -> None:
    assert names(pair_places(SMALL, TOKENS)) == [("n0", "n3"), ("n1", "n7"), ("n2", "n11")]
    half = places((8, 4, 4), (8, 2, 2))
    assert names(pair_places(half, places(*[(9, 5, 5)] * 4))) == [("n0", "n1"), ("n1", "n3")]


def test_patches_are_a_map_of_their_square() -> None:
    # A patch embedding, which is a map, and blocks of tokens: the last of them is the deepest.
    vit = places((24, 2, 2), *[(5, 24)] * 4)
    assert names(pair_places(SMALL, vit))[-1] == ("n2", "n4")
    assert len(stage_places(vit)) == 4


def test_places_of_one_resolution_are_spread_over_the_depth() -> None:
    assert [place.node for place in stage_places(TOKENS)] == ["n2", "n5", "n8", "n11"]
    assert names(pair_places(TOKENS[:2], TOKENS))[-1] == ("n1", "n1")


def test_a_teachers_place_is_used_once() -> None:
    found = pair_places(BIG, places((5,)))
    assert names(found) == [("n5", "n0")]


@pytest.mark.parametrize(
    ("make", "example"), [(ResNet, torch.zeros(2, 3, 8, 8)), (Transformer, torch.zeros(2, 6, 16))]
)
def test_blocks_of_real_programs(make: type[nn.Module], example: Tensor) -> None:
    found = block_places(program(make, example))
    assert found[-1].depth == 1.0 and found == sorted(found, key=lambda place: place.depth)
    assert all(len(place.shape) in (1, 2, 3) for place in found)
    assert pair_places(found, found) == [(place, place) for place in stage_places(found)]


def program(make: type[nn.Module], example: Tensor) -> fx.GraphModule:
    return float_form(trace(build(make), example)[0], (example,))


def test_modules_by_name() -> None:
    net = program(ResNet, torch.zeros(2, 3, 8, 8))
    layers = [Layers(student="blocks.0", teacher="blocks.2")]
    ((mine, theirs),) = named_places(net, net, layers)
    assert (mine.shape, theirs.shape) == ((4, 8, 8), (11, 4, 4))
    for path, reason in (
        ("blocks.9", "'blocks.9' fits no module of the teacher"),
        ("blocks.*", "'blocks.*' fits 3 modules of the teacher; name one"),
    ):
        with pytest.raises(ValueError) as caught:
            named_places(net, net, [Layers(student="stem", teacher=path)])
        assert str(caught.value).startswith(reason)
