import pytest
from networks import samples

from edgekd.errors import StageError
from edgekd.sparse.patterns import (
    NM,
    Block,
    Unstructured,
    fulfils,
    magnitude_masks,
    misfit,
    parse_pattern,
)


def test_the_recipe_s_words() -> None:
    assert parse_pattern("2:4", None, (4, 1)) == parse_pattern("2:4", 0.5, (4, 1)) == NM(2, 4)
    assert parse_pattern("unstructured", 0.75, (4, 1)) == Unstructured(0.75)
    assert parse_pattern("block", 0.6, (8, 2)) == Block(0.6, 8, 2)
    assert NM(1, 4).sparsity == 0.75


@pytest.mark.parametrize(
    ("text", "sparsity", "reason"),
    [
        ("4:4", None, "leaves out nothing"),
        ("2:4", 0.75, "is a sparsity of 0.5, not 0.75: leave 'sparsity' out"),
        ("unstructured", None, "needs 'sparsity'"),
        ("block", None, "needs 'sparsity'"),
    ],
)
def test_contradictions_are_refused(text: str, sparsity: float | None, reason: str) -> None:
    with pytest.raises(StageError, match=reason):
        parse_pattern(text, sparsity, (4, 1))


def test_what_a_weight_is_too_small_for() -> None:
    weight = samples(6, 6, 3, 3)
    assert misfit(NM(2, 4), weight) == "its 6 inputs are no multiple of 4"
    assert misfit(Block(0.5, 4, 1), weight) is not None
    assert misfit(NM(2, 3), weight) is misfit(Block(0.5, 3, 2), weight) is None
    assert misfit(Unstructured(0.5), weight) is None


def test_magnitudes_are_compared_across_layers() -> None:
    weights = {"small": 0.01 * samples(10, 10), "large": samples(10, 10, seed=1)}

    masks = magnitude_masks(Unstructured(0.5), weights)
    assert sum(int((~mask).sum()) for mask in masks.values()) == 100
    assert masks["small"].sum() < masks["large"].sum()

    masks = magnitude_masks(Unstructured(0.5), weights, sparsity=0.1)
    assert sum(int((~mask).sum()) for mask in masks.values()) == 20


@pytest.mark.parametrize(
    ("pattern", "yes"),
    [
        (NM(2, 4), True),
        (NM(1, 4), True),
        (NM(1, 2), True),
        (NM(2, 8), True),
        (NM(4, 8), False),  # all four may stand in one half
        (NM(2, 3), False),
        (NM(3, 4), False),
        (Unstructured(0.9), False),
    ],
)
def test_patterns_that_have_two_zeros_in_every_four(pattern: NM, yes: bool) -> None:
    assert fulfils(pattern, "2:4") is yes
