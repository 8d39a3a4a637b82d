"""When a copy in FP16 is good enough to be built."""

from __future__ import annotations

from typing import Any

import pytest

from edgekd.building.float16 import _too_different, is_wanted
from edgekd.device import load_profile
from edgekd.export.parity import Parity
from edgekd.metrics import Budget, Quality

ORIGINAL = Quality("top1", 0.92, 500, agreement=1.0, negative_flips=0.0)
MODEL = Quality("top1", 0.92, 500, agreement=0.98, negative_flips=0.004)
FOLLOWS = Parity(500, 0.995, 0.2, 0.5, float16=True)
DIFFERS = Parity(500, 0.982, 0.2, 0.5, float16=True)


def half(value: float, agreement: float | None, flips: float | None = 0.004) -> Quality:
    return Quality("top1", value, 500, agreement=agreement, negative_flips=flips)


@pytest.mark.parametrize(
    ("proof", "copy", "budget", "words"),
    [
        (FOLLOWS, half(0.92, 0.98), Budget(), None),
        (DIFFERS, half(0.92, 0.975), Budget(), None),
        (DIFFERS, half(0.92, 0.965), Budget(), "agreement 0.9820, accuracy gap 0.20 points"),
        (DIFFERS, half(0.905, 0.98), Budget(), "does not give the same answers"),
        (DIFFERS, half(0.92, None, None), Budget(), "does not give the same answers"),
        (FOLLOWS, half(0.918, 0.98), Budget(max_drop=0.1), "falls by 0.20 points instead of 0.00"),
        (FOLLOWS, half(0.918, 0.98), Budget(max_drop=0.3), None),
        (FOLLOWS, half(0.92, 0.98, 0.006), Budget(max_nfr=0.5), "the budget does not allow that"),
        (FOLLOWS, half(0.92, 0.98, 0.006), Budget(max_nfr=0.3), None),  # nor does the model hold it
    ],
)
def test_a_copy_is_as_good_as_its_model(
    proof: Parity, copy: Quality, budget: Budget, words: str | None
) -> None:
    found = _too_different(budget, proof, copy, MODEL, ORIGINAL)
    assert found is None if words is None else found is not None and words in found


@pytest.mark.parametrize(
    ("target", "changed", "expected"),
    [
        ("jetson", {}, True),
        ("jetson", {"software": ()}, True),
        ("jetson", {"peak_gmacs": {"float16": 1.0, "float32": 64.0}}, False),
        ("jetson", {"peak_gmacs": None}, True),
        ("jetson-xavier-nx", {}, False),
        ("jetson-thor", {}, False),
        ("cpu", {}, False),
    ],
)
def test_who_gets_a_copy(target: str, changed: dict[str, Any], expected: bool) -> None:
    assert is_wanted(load_profile(target).model_copy(update=changed)) is expected
