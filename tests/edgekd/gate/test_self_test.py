"""What the self-test says of processes whose answer is known, and one real run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekd.bench.runner import Variant
from edgekd.gate.run import PROTOCOL
from edgekd.gate.self_test import EFFECTS, rates, self_test

LIMIT = math.log1p(0.02)


@pytest.mark.parametrize(("shift", "found"), [(0.0, 0.0), (0.01, 0.0), (0.03, 1.0), (0.05, 1.0)])
def test_clear_effects_are_told_apart(shift: float, found: float) -> None:
    values = np.random.default_rng(0).normal(math.log1p(shift), 0.002, 30)
    told = rates(list(values), LIMIT, most=40, gates=50, resamples=5)
    assert (told.found, told.passed) == (found, 1 - found)
    assert told.measured == 30
    assert 8 <= told.processes <= 30


def test_an_effect_at_the_limit_has_no_verdict() -> None:
    values = np.random.default_rng(1).normal(LIMIT, 0.005, 40)
    told = rates(list(values), LIMIT, most=40, gates=50, resamples=5)
    assert told.inconclusive > 0.7
    assert told.low <= told.found <= told.high


def test_few_affordable_processes_decide_less() -> None:
    values = list(np.random.default_rng(2).normal(math.log1p(0.03), 0.01, 40))
    few, many = (rates(values, LIMIT, most=most, gates=100, resamples=5) for most in (8, 40))
    assert few.found < many.found
    assert few.processes == 8


@pytest.mark.slow
def test_a_real_model_against_slower_copies(make_chain: Callable[..., Path]) -> None:
    model = Variant(make_chain("model", 100))
    rows = self_test(model, 0.02, protocol=replace(PROTOCOL, warmup_ms=1.0), seconds=60.0)
    assert tuple(row.slower for row in rows) == EFFECTS
    assert rows[-1].measured_slower > rows[0].measured_slower
    assert all(row.rates.measured >= 8 for row in rows)
