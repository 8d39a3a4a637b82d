"""Operating points: the thresholds for what the recipe allows, and what is promised of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

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

    Exits and temperatures are chosen on the part of the samples that finds the path, if the others
    are enough to certify anything at all for the first of the ``wanted`` points; else nothing is
    spent on a test that cannot pass, and all samples choose.
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
    for point in wanted:
        found = cheapest_subset(samples, parts.of, point.max_drop / 100)
        if found.exits:
            break
    else:
        return None
    kept = recorded.at(found.exits)
    warm = tuple(temperatures[i] for i in found.exits)
    priced = kept.samples(options.confidence, warm, found.costs)
    points = [Point(FULL, (None,) * len(found.exits), {"max_drop": 0.0, "certified": True})]
    for point in wanted:
        points += _points(priced, kept, point, options.certainty, seed)
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


def _points(
    samples: CascadeSamples, recorded: Recorded, wanted: OperatingPoint, certainty: float, seed: int
) -> list[Point]:
    """Return the certified point of a budget, or else the best guess under another name."""
    budget = wanted.max_drop / 100
    promised = promise(samples, budget, certainty, _TEST, seed)
    facts: dict[str, Any] = {
        "max_drop": wanted.max_drop,
        "certainty": certainty,
        "samples": promised.samples,
    }
    if promised.certified is not None:
        found = promised.certified
        return [
            Point(
                wanted.name,
                found.thresholds,
                {**facts, "certified": True, "tested_on": promised.tested, **_outcome(found)},
            )
        ]
    guess = best_guess(samples, budget, certainty, _TEST, recorded.labels, seed)
    estimate = asdict(guess.estimate)
    estimate["mean_loss_points"] = 100 * estimate.pop("mean_loss")
    estimate["standard_error_points"] = 100 * estimate.pop("standard_error")
    return [
        Point(
            wanted.name + UNCERTIFIED,
            guess.point.thresholds,
            {
                **facts,
                "certified": False,
                "samples_needed": guess.samples_needed,
                **_outcome(guess.point),
                "estimate": estimate,
            },
        )
    ]


def _outcome(point: ExitPoint) -> dict[str, Any]:
    """Return what a point came to on the samples that it was chosen or tested on."""
    return {
        "loss_points": 100 * point.mean_loss,
        "expected_cost": point.cost,
        "shares": list(point.shares),
    }
