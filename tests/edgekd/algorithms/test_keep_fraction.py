import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.algorithms.keep_fraction import difficulty, kept_samples, teacher_weight

SCORES = np.array([0.5, 0.1, 0.9, 0.3, 0.7])


def test_difficulty_by_hand() -> None:
    logits = np.log([[3.0, 1.0], [3.0, 1.0], [3.0, 1.0]])
    found = difficulty(logits, np.array([0, 1, -1]))
    assert found == pytest.approx([math.sqrt(2) / 4, 3 * math.sqrt(2) / 4, math.sqrt(2) / 4])
    assert difficulty(logits) == pytest.approx([math.sqrt(2) / 4] * 3)
    assert np.isfinite(difficulty(np.array([[1e4, -1e4]]))).all()


def test_the_easiest_and_the_hardest_are_kept() -> None:
    assert kept_samples(SCORES, 0.4, order="easy").tolist() == [1, 3]
    assert kept_samples(SCORES, 0.4, order="hard").tolist() == [2, 4]


@given(
    st.integers(1, 60),
    st.floats(0.01, 1),
    st.sampled_from(["random", "easy", "hard"]),
    st.integers(0, 100),
)
def test_as_many_as_asked_of_every_group_to_within_one(count, fraction, order, seed) -> None:
    rng = np.random.default_rng(seed)
    scores, groups = rng.random(count), rng.integers(0, 4, count)
    total = max(1, round(fraction * count))
    plain = kept_samples(scores, fraction, order=order, seed=seed)
    found = kept_samples(scores, fraction, order=order, groups=groups, seed=seed)
    again = kept_samples(scores, fraction, order=order, groups=groups, seed=seed)
    assert found.tolist() == again.tolist()
    for kept in (plain, found):
        assert len(kept) == total == len(set(kept.tolist()))
        assert (np.diff(kept) > 0).all()
    for group in np.unique(groups):
        share = (groups == group).sum() * total / count
        assert abs((groups[found] == group).sum() - share) < 1


def test_a_seed_decides_a_random_choice() -> None:
    scores = np.zeros(50)
    assert kept_samples(scores, 0.5, seed=0).tolist() != kept_samples(scores, 0.5, seed=1).tolist()


def test_the_less_is_kept_the_more_the_teacher_weighs() -> None:
    weights = [teacher_weight(fraction) for fraction in (0.1, 0.5, 1.0)]
    assert weights == pytest.approx([0.95, 0.75, 0.5])


@pytest.mark.parametrize("fraction", [0.0, -1.0, 1.5, math.nan])
def test_fractions_that_are_none_are_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match="fraction"):
        kept_samples(SCORES, fraction)
    with pytest.raises(ValueError, match="fraction"):
        teacher_weight(fraction)
