"""When a gate stops, and how often it is wrong by design."""

from __future__ import annotations

import math
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.gate.decision import ERROR, FEWEST, LOOKS, decide
from edgekd.gate.self_test import draw

LIMIT = math.log1p(0.02)


def test_the_looks_share_one_allowance() -> None:
    spent = []
    for look in LOOKS:
        found = decide([1.0] * look, LIMIT, last=False)
        assert found is not None
        spent.append(found.error)
    assert sum(spent) == pytest.approx(ERROR)
    for count in (FEWEST, 10, 20, 30):
        found = decide([1.0] * count, LIMIT, last=True)
        assert found is not None
        earlier = sum(error for look, error in zip(LOOKS, spent, strict=True) if look < count)
        assert found.error == pytest.approx(ERROR - earlier)


@given(st.integers(1, 60))
def test_it_looks_at_fixed_counts_only(count: int) -> None:
    found = decide([1.0] * count, LIMIT, last=False)
    assert (found is not None) == (count in LOOKS)


@pytest.mark.parametrize(
    ("value", "verdict"), [(0.1, "regression"), (0.001, "pass"), (-0.1, "improvement")]
)
def test_clear_cases_take_the_first_look(value: float, verdict: str) -> None:
    found = decide([value] * LOOKS[0], LIMIT, last=False)
    assert found is not None
    assert found.verdict == verdict
    fewest = decide([value] * FEWEST, LIMIT, last=True)
    assert fewest is not None
    assert fewest.verdict == verdict
    too_few = decide([value] * (FEWEST - 1), LIMIT, last=True)
    assert too_few is not None
    assert too_few.verdict == "inconclusive"
    assert math.isinf(too_few.bounds.low)


def test_no_look_decides_what_is_on_the_limit() -> None:
    values = [LIMIT + sign * 0.01 for _ in range(24) for sign in (-1, 1)]
    assert all(decide(values[:look], LIMIT, last=False) is None for look in LOOKS[:-1])
    found = decide(values, LIMIT, last=False)
    assert found is not None
    assert found.verdict == "inconclusive"


@pytest.mark.parametrize("heavy", [False, True])
def test_the_error_at_the_limit_is_what_it_promises(heavy: bool) -> None:
    rng = np.random.default_rng(0)
    noise = rng.standard_t(2, (2000, 48)) if heavy else rng.normal(0, 1, (2000, 48))
    ends = Counter(draw(list(LIMIT + 0.005 * row), LIMIT, 48, random.Random(0))[0] for row in noise)
    for verdict in ("regression", "pass"):
        assert ends[verdict] / 2000 <= ERROR + 3 * math.sqrt(ERROR / 2000)
