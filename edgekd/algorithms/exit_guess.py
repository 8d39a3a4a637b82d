"""The best guess at thresholds, from all samples, and an honest estimate of what it comes to.

Thresholds look better on the samples that they were chosen on than they are. So loss and cost are
estimated by cross-fitting: every sample is judged at thresholds that were chosen without its fold
(Stone, "Cross-Validatory Choice and Assessment of Statistical Predictions", JRSS-B 1974).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekd.algorithms.exit_promise import LossTest, samples_needed
from edgekd.algorithms.exit_search import cheapest_for_each, cheapest_thresholds
from edgekd.algorithms.exit_thresholds import CascadeSamples, ExitPoint, leave_at

_TIGHTER = (1.0, 0.75, 0.5, 0.25, 0.0)  # budgets of the guess, over the budget
_FOLDS = 5


@dataclass(frozen=True)
class CrossFit:
    """Estimates from samples that had no part in choosing the thresholds that they are judged at.

    ``standard_error`` is that of the mean loss, ``shares`` by exit as in ``ExitPoint``.
    """

    mean_loss: float
    standard_error: float
    cost: float
    shares: tuple[float, ...]


@dataclass(frozen=True)
class Guess:
    """The best thresholds from all samples, not certified.

    ``point`` has its outcome on the samples that it was chosen on, ``estimate`` the honest one.
    ``samples_needed`` is about how many samples would certify it (None: its estimated loss is not
    below the budget, or more than a million).
    """

    budget: float
    point: ExitPoint
    estimate: CrossFit
    samples_needed: int | None


def best_guess(
    samples: CascadeSamples,
    budget: float,
    certainty: float,
    test: LossTest,
    labels: NDArray[np.integer] | None = None,
    seed: int = 0,
) -> Guess:
    """Return the cheapest thresholds on all samples that seem to lose at most ``budget``.

    They are chosen at the largest of 1, 3/4, 1/2, 1/4 and 0 times the budget whose cross-fitted
    mean loss is within the budget (else at 0): chosen right at the budget they would lose more
    than that on other samples. Arguments as for ``promise``; ``labels`` ``(n,)`` spread the classes
    over the folds.
    """
    budgets = [budget * share for share in _TIGHTER]
    judged = _out_of_fold(samples, budgets, labels, seed)
    estimates = [_cross_fit(samples, ends) for ends in judged]
    within = [i for i, one in enumerate(estimates) if one.mean_loss <= budget]
    best = within[0] if within else len(budgets) - 1
    needed = samples_needed(_ended(samples, judged[best]), budget, certainty, test)
    point = cheapest_thresholds(samples, budgets[best])
    return Guess(budget, point, estimates[best], needed)


def cross_fit(
    samples: CascadeSamples,
    budgets: Sequence[float],
    labels: NDArray[np.integer] | None = None,
    seed: int = 0,
) -> list[CrossFit]:
    """Return honest estimates of what thresholds chosen for each budget come to (5 folds)."""
    return [_cross_fit(samples, e) for e in _out_of_fold(samples, budgets, labels, seed)]


def _out_of_fold(
    samples: CascadeSamples,
    budgets: Sequence[float],
    labels: NDArray[np.integer] | None,
    seed: int,
) -> NDArray[np.intp]:
    """Return ``(budgets, n)``: where each sample leaves at thresholds chosen on other folds."""
    count = len(samples.losses)
    if count < 2:
        raise ValueError("cross-fitting needs two samples")
    folds = min(_FOLDS, count)
    order = np.random.default_rng(seed).permutation(count)
    if labels is not None:
        order = order[np.argsort(labels[order], kind="stable")]
    fold = np.empty(count, np.intp)
    fold[order] = np.arange(count) % folds
    ends = np.empty((len(budgets), count), np.intp)
    for held in range(folds):
        points = cheapest_for_each(samples.take(np.flatnonzero(fold != held)), budgets)
        for row, point in enumerate(points):
            inside = fold == held
            ends[row, inside] = leave_at(samples.confidences[inside], point.thresholds)
    return ends


def _ended(samples: CascadeSamples, ends: NDArray[np.intp]) -> NDArray[np.float64]:
    with_end = np.pad(samples.losses, ((0, 0), (0, 1)))
    losses: NDArray[np.float64] = with_end[np.arange(len(ends)), ends]
    return losses


def _cross_fit(samples: CascadeSamples, ends: NDArray[np.intp]) -> CrossFit:
    losses = _ended(samples, ends)
    shares = np.bincount(ends, minlength=samples.exits + 1) / len(ends)
    error = float(losses.std(ddof=1)) / len(losses) ** 0.5
    cost = float(samples.costs[ends].mean())
    return CrossFit(float(losses.mean()), error, cost, tuple(shares.tolist()))
