import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import samples

from edgekd.algorithms.feature_shapes import (
    at_the_smaller_size,
    map_of_tokens,
    pooled,
    resized,
    tokens_of_map,
)

sides = st.integers(1, 9)


@given(sides, sides, sides, sides)
def test_resizing_gives_the_size_and_keeps_what_is_constant(a: int, b: int, c: int, d: int) -> None:
    maps = torch.tensor([1.0, -2.0]).reshape(1, 2, 1, 1).expand(3, 2, a, b)
    found = resized(maps, (c, d))
    assert found.shape == (3, 2, c, d)
    assert torch.allclose(found, maps[:, :, :1, :1].expand_as(found))


def test_shrinking_is_the_mean_of_what_lies_there() -> None:
    maps = torch.tensor([[[[1.0, 3.0, 5.0, 7.0], [1.0, 3.0, 5.0, 7.0]]]])
    assert resized(maps, (1, 2)).flatten().tolist() == [2.0, 6.0]
    assert resized(maps, (4, 2)).flatten().tolist() == [2.0, 6.0] * 4  # one axis each way


def test_each_axis_is_compared_at_the_smaller_size() -> None:
    student, teacher = at_the_smaller_size(samples(2, 3, 8, 2), samples(2, 5, 4, 4))
    assert student.shape == (2, 3, 4, 2) and teacher.shape == (2, 5, 4, 2)


def test_tokens_and_maps_are_the_same_thing() -> None:
    maps = samples(2, 3, 4, 4)
    tokens = tokens_of_map(maps)
    assert torch.equal(tokens[:, 6], maps[:, :, 1, 2])  # row by row
    assert torch.equal(map_of_tokens(tokens), maps)
    with_class = torch.cat([samples(2, 1, 3, seed=1), tokens], 1)
    assert torch.equal(map_of_tokens(with_class, special=1), maps)
    assert torch.allclose(pooled(tokens), pooled(maps))
    assert torch.equal(pooled(maps[:, :, 0, 0]), maps[:, :, 0, 0])


def test_what_has_no_place_or_no_vector_is_refused() -> None:
    with pytest.raises(ValueError, match="17 patches do not fill a square"):
        map_of_tokens(samples(2, 17, 3))
    with pytest.raises(ValueError, match="0 patches"):
        map_of_tokens(samples(2, 1, 3), special=1)
    with pytest.raises(ValueError, match="no vector"):
        pooled(samples(4))
