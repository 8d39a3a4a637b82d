"""Operating points: the thresholds for what the recipe allows, and what is promised of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgekd.algorithms.exit_frontier import frontier
from edgekd.algorithms.exit_guess import best_guess
from edgekd.algorithms.exit_promise import loss_p_value, promise, split
from edgekd.algorithms.exit_subset import cheapest_subset
from edgekd.algorithms.exit_thresholds import CascadeSamples, ExitPoint, Thresholds
from edgekd.cascade.costs import PartCosts
from edgekd.cascade.recorded import Recorded
from edgekd.recipe import EarlyExitStage, OperatingPoint

FULL = "full"  # the operating point at which nothing leaves
UNCERTIFIED = "-uncertified"
_TEST: Final = "betting"  # losses are -1, 0 or 1
_FEWEST = 20  # samples, below which thresholds are not worth choosing


@dataclass(frozen=True)
class Point:
    """Thresholds under a name, and all that is known of them, as plain data for the manifest."""

    name: str
    thresholds: Thresholds
    facts: dict[str, Any]


@dataclass(frozen=True)
class Chosen:
    """The exits to keep (positions), their temperatures, and the operating points.

    ``costs`` are of leaving at each exit and at the end. ``whole`` is the cost of the model without
    exits. ``default`` names the point that ``load`` takes. ``curve`` goes from "nothing leaves" to
    "all leave at the first".
    """

    exits: tuple[int, ...]
    temperatures: tuple[float, ...]
    costs: tuple[float, ...]
    whole: float
    points: tuple[Point, ...]
    default: str
    curve: tuple[ExitPoint, ...]


def choose_points(
    recorded: Recorded,
    parts: PartCosts,
    options: EarlyExitStage,
    wanted: Sequence[OperatingPoint],
    seed: int,
) -> Chosen | None:
    """Return which exits to keep and when to leave there; None where no exit saves anything.

    Exits that make the way to the end longer than the recipe allows are not kept together.

    A promise holds only if exits and temperatures are chosen without the samples that test it
    (``exit_promise.split``). Where these are too few to certify anything for the first of the
    ``wanted`` points, all samples choose, and no point is promised.
    """
    count = len(recorded.labels)
    if count < _FEWEST:
        return None
    first, tested = split(count, seed)
    hopeless = (
        loss_p_value(np.zeros(len(tested)), wanted[0].max_drop / 100, options.certainty, _TEST)
        > 1 - options.certainty
    )
    choosing = recorded if hopeless else recorded.take(first)
    temperatures = choosing.temperatures()
    unpriced = (0.0,) * (len(recorded.exits) + 1)
    samples = choosing.samples(options.confidence, temperatures, unpriced)
    limit = (1 + options.max_overhead) * parts.of(())[0]

    def costs_of(subset: tuple[int, ...]) -> tuple[float, ...] | None:
        costs = parts.of(subset)
        return costs if costs[-1] <= limit else None

    for point in wanted:
        found = cheapest_subset(samples, costs_of, point.max_drop / 100)
        if found.exits:
            break
    else:
        return None
    kept = recorded.at(found.exits)
    warm = tuple(temperatures[i] for i in found.exits)
    priced = kept.samples(options.confidence, warm, found.costs)
    points = [Point(FULL, (None,) * len(found.exits), {"max_drop": 0.0, "certified": True})]
    for point in wanted:
        points.append(
            _point(priced, kept.labels, point, options.certainty, seed, promised=not hopeless)
        )
    names = [point.name for point in points]
    return Chosen(
        found.exits,
        warm,
        found.costs,
        parts.of(())[0],
        tuple(points),
        wanted[0].name if wanted[0].name in names else FULL,
        tuple(frontier(priced)),
    )


def _point(
    samples: CascadeSamples,
    labels: NDArray[np.int64],
    wanted: OperatingPoint,
    certainty: float,
    seed: int,
    *,
    promised: bool,
) -> Point:
    """Return the certified point of a budget, or else the best guess under another name."""
    budget = wanted.max_drop / 100
    facts: dict[str, Any] = {
        "max_drop": wanted.max_drop,
        "certainty": certainty,
        "samples": len(labels),
    }
    found = promise(samples, budget, certainty, _TEST, seed) if promised else None
    if found is not None and found.certified is not None:
        facts |= {"certified": True, "tested_on": found.tested, **_outcome(found.certified)}
        return Point(wanted.name, found.certified.thresholds, facts)
    guess = best_guess(samples, budget, certainty, _TEST, labels, seed)
    estimate = {
        "loss_points": 100 * guess.estimate.mean_loss,
        "standard_error_points": 100 * guess.estimate.standard_error,
        "cost": guess.estimate.cost,
        "shares": list(guess.estimate.shares),
    }
    facts |= {"certified": False, "samples_needed": guess.samples_needed, "estimate": estimate}
    facts |= _outcome(guess.point)
    return Point(wanted.name + UNCERTIFIED, guess.point.thresholds, facts)


def _outcome(point: ExitPoint) -> dict[str, Any]:
    """Return what a point came to on the samples that it was chosen or tested on."""
    return {
        "loss_points": 100 * point.mean_loss,
        "expected_cost": point.cost,
        "shares": list(point.shares),
    }
