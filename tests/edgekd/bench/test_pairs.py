"""The centre of one process's pairs."""

from __future__ import annotations

import math
from typing import Any

import pytest

from edgekd.bench.pairs import centre, process_centre


def answer(waits: list[int]) -> dict[str, Any]:
    """Five pairs: twice the CPU time, three times the wall time."""
    return {
        "samples_ns": {"a": [100] * 5, "b": [300] * 5},
        "cpu_ns": {"a": [50] * 5, "b": [100] * 5},
        "waits": {"a": [0] * 5, "b": waits},
    }


@pytest.mark.parametrize(
    ("waits", "clock", "ratio", "said"),
    [
        ([0, 0, 0, 0, 0], "running", 2, "running"),
        ([0, 1, 0, 0, 0], "running", 2, "running"),
        ([0, 1, 1, 0, 0], "running", 3, "wall"),
        ([0, 0, 0, 0, 0], "wall", 3, "wall"),
    ],
)
def test_wall_time_takes_over_when_calls_wait(
    waits: list[int], clock: str, ratio: float, said: str
) -> None:
    found = centre(answer(waits), "a", "b", clock)
    assert found.log_ratio == pytest.approx(math.log(ratio))
    assert found.clock == said
    alone = process_centre(answer(waits), "b", clock)
    assert math.exp(alone) == pytest.approx(300 if said == "wall" else 100)


def test_pairs_that_waited_are_left_out() -> None:
    data = answer([0, 0, 0, 0, 1])
    data["cpu_ns"]["b"][4] = 10**9
    assert centre(data, "a", "b", "running").log_ratio == pytest.approx(math.log(2))


def test_a_clock_that_says_nothing_is_no_infinity() -> None:
    data = answer([0] * 5)
    data["cpu_ns"]["a"] = [0] * 5
    assert math.isfinite(centre(data, "a", "b", "running").log_ratio)
