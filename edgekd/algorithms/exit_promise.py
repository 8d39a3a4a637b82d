"""What may be promised of early exits: "at most this loss, with this certainty".

Learn-then-Test with a fixed sequence (Angelopoulos et al., arXiv 2110.01052, sections 2 and 4): a
path of thresholds is found on one part of the samples, then tested in its order on the other part,
until the first test fails. The last point that passed is certified, at the full level and without a
correction for the number of tests. The two parts are drawn without a look at the labels: strata
would make them dependent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgekd.algorithms.betting_bound import betting_p_value
from edgekd.algorithms.binomial import binomial_tail
from edgekd.algorithms.exit_frontier import frontier
from edgekd.algorithms.exit_thresholds import CascadeSamples, ExitPoint, losses_of, outcome

# "binomial" is exact for losses in {0, 1}: the prediction differs. "betting" is for all others.
LossTest: TypeAlias = Literal["betting", "binomial"]

_PARTS = 3  # one of them finds the path, the others test it
_PATH = tuple(step / 8 for step in range(17))  # budgets of the path, over the budget
_MOST_NEEDED = 2**20


@dataclass(frozen=True)
class TestedPoint:
    """A point of the path with its outcome on the samples of the test, and the test's p-value."""

    point: ExitPoint
    p_value: float


@dataclass(frozen=True)
class Promise:
    """Thresholds that lose at most ``budget`` (a share) with ``certainty``, or None.

    ``certified`` has its outcome on the samples of the test. ``steps`` are the tested points, the
    first that failed included. ``samples_needed`` is about how many samples, of both parts
    together, that one would need to pass; None if none failed or no number would do.
    """

    budget: float
    certainty: float
    certified: ExitPoint | None
    steps: tuple[TestedPoint, ...]
    samples: int
    tested: int
    samples_needed: int | None


def split(count: int, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the indices that find the path (a third) and those that test it, both shuffled."""
    order = np.random.default_rng(seed).permutation(count)
    return order[: count // _PARTS], order[count // _PARTS :]


def promise(
    samples: CascadeSamples, budget: float, certainty: float, test: LossTest, seed: int = 0
) -> Promise:
    """Return the cheapest point of the path that can be promised; see the module's docstring.

    Whatever else was chosen by looking at samples, such as which exits there are, must have been
    chosen on the first part of ``split(n, seed)`` alone.

    Args:
        samples: n samples, drawn independently from what the promise is about.
        budget: the mean loss that is allowed, as a share, at least 0.
        certainty: in (0, 1), such as 0.95.
        test: which test fits the losses.
        seed: of the split.

    Raises ValueError for fewer than 6 samples, and where "binomial" meets losses not in {0, 1}.
    """
    count = len(samples.losses)
    if count < 2 * _PARTS:
        raise ValueError(f"{count} samples cannot be split")
    chosen, tested = (samples.take(part) for part in split(count, seed))
    _check(samples.losses, test)
    certified: ExitPoint | None = None
    steps: list[TestedPoint] = []
    needed: int | None = None
    for candidate in frontier(chosen, [budget * step for step in _PATH])[1:]:
        losses = losses_of(tested, candidate.thresholds)
        point = outcome(tested, candidate.thresholds)
        p_value = loss_p_value(losses, budget, certainty, test)
        steps.append(TestedPoint(point, p_value))
        if p_value > 1 - certainty:
            needed = samples_needed(losses, budget, certainty, test)
            break
        certified = point
    # What certifies "nothing leaves" is no news.
    if certified is not None and certified.shares[-1] == 1:
        certified = None
    return Promise(budget, certainty, certified, tuple(steps), count, len(tested.losses), needed)


def loss_p_value(
    losses: NDArray[np.float64], budget: float, certainty: float, test: LossTest
) -> float:
    """Return the p-value of "the mean loss is at least ``budget``" for losses ``(n,)``."""
    _check(losses, test)
    if test == "betting":
        return float(betting_p_value(losses, budget, 1 - certainty))
    return binomial_tail(int(losses.sum()), len(losses), budget)


def samples_needed(
    losses: NDArray[np.float64], budget: float, certainty: float, test: LossTest
) -> int | None:
    """Return about how many samples a promise takes if more of them are like ``losses``.

    The test is given more and more losses until it passes: quantiles of those that were seen, in an
    order in which every stretch has nearly their mean and spread (multiples of the golden ratio).
    With so many, about two of three draws pass. Both parts of the split are counted. None where the
    mean is not below the budget, or a million in the test's part would not do.
    """
    if losses.mean() >= budget:
        return None
    turns = np.arange(1, _MOST_NEEDED + 1) * ((5**0.5 - 1) / 2) % 1.0
    spread = np.sort(losses)[(turns * len(losses)).astype(np.intp)]

    def passes(count: int) -> bool:
        return loss_p_value(spread[:count], budget, certainty, test) <= 1 - certainty

    high = 2
    while not passes(high):
        high *= 2
        if high > _MOST_NEEDED:
            return None
    low = high // 2
    while high - low > max(1, high // 256):
        middle = (low + high) // 2
        low, high = (low, middle) if passes(middle) else (middle, high)
    return -(-high * _PARTS // (_PARTS - 1))


def _check(losses: NDArray[np.float64], test: LossTest) -> None:
    if test == "binomial" and not np.isin(losses, (0, 1)).all():
        raise ValueError("the binomial test is for losses that are 0 or 1")
