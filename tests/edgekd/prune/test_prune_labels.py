from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgekd.prune.labels import Labels, Lock, varying

PAIRS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12)


@given(PAIRS, st.lists(st.integers(0, 9), max_size=3))
def test_classes_are_those_of_a_plain_search(pairs: list[tuple[int, int]], kept: list[int]) -> None:
    labels = Labels()
    ids = labels.fresh(10)
    for a, b in pairs[::2]:
        labels.tie(ids[[a]], ids[[b]])
    for label in kept:
        labels.lock(ids[[label]], Lock("needed"))
    if pairs[1::2]:
        a, b = np.array(pairs[1::2]).T
        labels.tie(ids[a], ids[b])
    expected = [{i} for i in range(10)]
    for a, b in pairs:
        merged = expected[a] | expected[b]
        for i in merged:
            expected[i] = merged
    found = labels.roots(ids)
    for i in range(10):
        assert set(np.flatnonzero(found == found[i]).tolist()) == expected[i]
        locked = bool(expected[i] & set(kept))
        assert (labels.classes(ids)[i] == 0) == locked
        assert (labels.lock_of(ids[[i]]) is not None) == locked


def test_a_needed_reason_comes_before_one_that_was_not_followed() -> None:
    labels = Labels()
    ids = labels.fresh(3)
    labels.lock(ids[:1], Lock("unknown", "net.py:1", followed=False))
    labels.lock(ids[1:2], Lock("needed"))
    labels.tie(ids[:1], ids[1:2])
    assert labels.lock_of(ids[:1]) == Lock("needed")


def test_coupling_and_compressing_leave_the_axes_that_change() -> None:
    labels = Labels()
    array = labels.fresh(24).reshape(2, 3, 4)
    assert varying(labels.compress(array)) == [0, 1, 2]
    labels.couple(array, [0, 2])
    assert labels.compress(array).shape == (1, 3, 1)
    assert len(np.unique(labels.classes(array))) == 3
    labels.lock(array, Lock("needed"))
    assert labels.compress(array).shape == (1, 1, 1)
