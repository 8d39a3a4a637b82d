"""Splits: disjoint, complete, reproducible, in proportion."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.data.samples import ArraySamples
from edgekd.data.splits import calibration_count, held_out_indices, hold_out, validation_count
from edgekd.errors import DataError


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(2, 200), st.integers(0, 2**32 - 1), st.booleans())
def test_a_split_is_disjoint_complete_and_reproducible(data, total, seed, labelled):
    count = data.draw(st.integers(1, total - 1))
    labels = np.arange(total) % 7 if labelled else None
    samples = ArraySamples({"x": np.arange(total)}, labels)
    kept, held = hold_out(samples, count, seed)
    assert len(held) == count
    assert sorted([*kept.indices, *held.indices]) == list(range(total))
    again = hold_out(samples, count, seed)
    assert np.array_equal(again[0].indices, kept.indices)
    assert np.array_equal(again[1].indices, held.indices)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.lists(st.integers(0, 4), min_size=20, max_size=200))
def test_classes_keep_their_share(seed, labels):
    targets = np.array(labels, np.int64)
    held = held_out_indices(len(targets), len(targets) // 4, seed, targets)
    for label in np.unique(targets):
        expected = (targets == label).sum() * len(held) / len(targets)
        # Each class is spread evenly; the common cut-off moves by at most one place per class.
        assert abs((targets[held] == label).sum() - expected) <= 2


def test_another_seed_gives_another_split():
    assert not np.array_equal(held_out_indices(100, 20, 0), held_out_indices(100, 20, 1))


def test_regression_targets_are_not_taken_as_classes():
    targets = np.linspace(0, 1, 50, dtype=np.float32)
    assert np.array_equal(held_out_indices(50, 10, 3, targets), held_out_indices(50, 10, 3))


@pytest.mark.parametrize("count", [0, 3, 4])
def test_an_empty_side_is_refused(count):
    with pytest.raises(DataError, match="too few samples"):
        hold_out(ArraySamples({"x": np.arange(3)}, None), count, 0)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0, float("nan")])
def test_a_fraction_outside_0_to_1_is_refused(fraction):
    with pytest.raises(DataError, match="between 0 and 1"):
        validation_count(10, fraction)


def test_calibration_takes_at_most_a_fifth_and_at_least_one():
    assert [calibration_count(n, 512) for n in (2, 100, 10_000)] == [1, 20, 512]
    with pytest.raises(DataError, match="at least 1"):
        calibration_count(100, 0)
