import torch
from networks import build, samples

from edgekd.algorithms.feature_shapes import tokens_of_map
from edgekd.algorithms.projector import Projector


def test_a_map_is_projected_place_by_place_as_tokens_are() -> None:
    projector = build(lambda: Projector(3, 5))
    maps = samples(2, 3, 4, 2)
    found = projector(maps)
    assert found.shape == (2, 5, 4, 2)
    assert torch.allclose(tokens_of_map(found), projector(tokens_of_map(maps)), atol=1e-6)
    assert torch.allclose(found[:, :, 1, 1], projector(maps[:, :, 1, 1]), atol=1e-6)
