"""Two models in one process: the centre of their paired log ratios."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

_ENOUGH = 0.8  # share of pairs in which neither call waited; fewer would be a choice of pairs


class Centre(NamedTuple):
    """The median over pairs of log(second / first), and the clock that it is of."""

    log_ratio: float
    clock: str


def centre(answer: Mapping[str, Any], first: str, second: str, clock: str) -> Centre:
    """Return how much longer ``second`` takes than ``first`` in one process's answer.

    ``clock`` is the protocol's. Running time is compared in the pairs whose calls both never
    waited; where that is less than 80 % of them, the wall time of all pairs is, and the answer
    says so.
    """
    never = (_of(answer, "waits", first) == 0) & (_of(answer, "waits", second) == 0)
    running = clock == "running" and never.mean() >= _ENOUGH
    name = "cpu_ns" if running else "samples_ns"
    logs = np.log(_of(answer, name, second)) - np.log(_of(answer, name, first))
    chosen = logs[never] if running else logs
    return Centre(float(np.median(chosen)), "running" if running else "wall")


def process_centre(answer: Mapping[str, Any], model: str, clock: str) -> float:
    """Return the log of one model's median time in one process's answer, in nanoseconds."""
    never = _of(answer, "waits", model) == 0
    if clock == "running" and never.mean() >= _ENOUGH:
        return float(np.median(np.log(_of(answer, "cpu_ns", model)[never])))
    return float(np.median(np.log(_of(answer, "samples_ns", model))))


def _of(answer: Mapping[str, Any], field: str, model: str) -> npt.NDArray[np.float64]:
    least = 0.0 if field == "waits" else 1.0  # a coarse clock may say 0 ns, which has no logarithm
    return np.maximum(np.asarray(answer[field][model], np.float64), least)
