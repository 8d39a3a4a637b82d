"""The search of one pruning step: what goes, and whether that is enough when it is measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from edgekd.algorithms.width_search import TargetError
from edgekd.errors import StageError
from edgekd.graph.taps import Tap
from edgekd.prune.analysis import Analysis
from edgekd.prune.choice import Choice, choose_by_damage, choose_uniform
from edgekd.prune.damage import removal
from edgekd.prune.residual import ResidualBlock, bypass, residual_blocks
from edgekd.prune.surgery import remove
from edgekd.recipe import PruneStage
from edgekd.stages.prune_ruler import Ruler, Scale

ATTEMPTS = 8
SLACK = 1.05
"""A measured candidate may be this much faster than asked before the search is given more room."""
_LESS = "ask for less, or allow narrower layers with 'multiple'"


@dataclass(frozen=True)
class Weighed:
    """Everything that a choice depends on: it is the same for all attempts of a step."""

    module: fx.GraphModule
    analysis: Analysis
    options: dict[str, list[int]]
    scores: dict[str, Tensor]
    damage: dict[str, dict[int, float]]
    blocks: dict[ResidualBlock, float]
    scale: Scale


@dataclass(frozen=True)
class Cut:
    """The smaller program, and the taps that are left in it."""

    module: fx.GraphModule
    taps: list[Tap]


@dataclass(frozen=True)
class Chosen:
    """What goes, the program without it, and the gain of every candidate on the way.

    ``number`` is the place in ``attempts`` of the one that was taken.
    """

    choice: Choice
    cut: Cut
    attempts: list[dict[str, float]]
    number: int = 0


def choose_predicted(
    options: PruneStage, weighed: Weighed, taps: list[Tap], ruler: Ruler, gain: float
) -> Chosen:
    """Return the least harmful choice that has the gain by prediction or by counting.

    Raises StageError when not even the smallest candidate has it.
    """
    try:
        choice = _choose(options, weighed, weighed.scale.original / gain)
    except TargetError as error:
        how = "counted" if ruler.source == "counted" else "predicted"
        raise StageError(
            f"prune: a gain of {gain:.2f}x is out of reach: the smallest candidate has "
            f"{weighed.scale.original / error.smallest:.2f}x ({how}); {_LESS}"
        ) from None
    attempt = {"predicted": weighed.scale.original / choice.cost}
    return Chosen(choice, _cut(weighed, choice, taps, ruler.state.example), [attempt])


def choose_measured(
    options: PruneStage, weighed: Weighed, taps: list[Tap], ruler: Ruler, gain: float
) -> Chosen:
    """Return the least harmful of the candidates that were measured to be fast enough.

    The search is repeated with a corrected limit until one is as fast as asked and no faster than
    ``SLACK`` times that. Raises StageError when none is fast enough, not even the smallest.
    """
    limit = weighed.scale.original / gain
    attempts: list[dict[str, float]] = []
    measured: list[tuple[Choice, float]] = []
    best: tuple[tuple[float, float], Choice, Cut] | None = None
    number = 0
    for tried in range(1, ATTEMPTS + 1):
        try:
            choice = _choose(options, weighed, limit)
        except TargetError as error:  # the prediction may be wrong: try the smallest
            choice = _choose(options, weighed, error.smallest)
            if any(choice == known for known, _ in measured):
                break
        found = next((ratio for known, ratio in measured if known == choice), None)
        if found is None:
            cut = _cut(weighed, choice, taps, ruler.state.example)
            original_us, candidate_us = ruler.latencies(cut.module)
            found = original_us / candidate_us
            measured.append((choice, found))
            predicted = weighed.scale.original / choice.cost
            attempts.append({"predicted": predicted, "measured": found})
            # Where damage is not known (uniform), the slower of two is the less harmful one.
            worth = choice.damage, found
            if found >= gain and (best is None or worth < best[0]):
                best, number = (worth, choice, cut), len(attempts) - 1
        if gain <= found <= gain * SLACK:
            break
        limit = _corrected(limit, choice.cost, found / gain, tried=tried)
    if best is None:
        raise StageError(
            f"prune: no candidate is {gain:.2f}x as fast when measured, the fastest is "
            f"{max(ratio for _, ratio in measured):.2f}x; {_LESS}"
        )
    return Chosen(best[1], best[2], attempts, number)


def _corrected(limit: float, cost: float, found: float, *, tried: int) -> float:
    """Return the next limit; ``found`` is the measured gain over the wanted one.

    Choices come in jumps, so a correction by the error alone may find the same one again: each
    further attempt goes a little beyond.
    """
    if found < 1:
        return min(limit, cost) * found * (1 - 0.01 * tried)
    return limit * math.sqrt(min(found, SLACK))


def _choose(options: PruneStage, weighed: Weighed, limit: float) -> Choice:
    """Return the choice that costs at most ``limit``; raises TargetError when there is none."""
    if options.across == "uniform":
        return choose_uniform(weighed.options, weighed.scale.cost_of, limit)
    return choose_by_damage(weighed.damage, weighed.blocks, weighed.scale.cost_of, limit)


def _cut(weighed: Weighed, choice: Choice, taps: list[Tap], example: tuple[Tensor, ...]) -> Cut:
    """Take out what was not chosen; taps whose tensor is gone are dropped."""
    removed = removal(weighed.scores, choice.kept)
    smaller = remove(weighed.module, weighed.analysis, removed, example)
    taps = follow(taps, smaller.names, smaller.kept)
    names = {block.name for block in choice.blocks}
    blocks = [block for block in residual_blocks(smaller.module) if block.name in names]
    if not blocks:
        return Cut(smaller.module, taps)
    shorter = bypass(smaller.module, blocks, example)
    return Cut(shorter.module, follow(taps, shorter.names, {}))


def follow(
    taps: list[Tap],
    names: Mapping[str, str],
    kept: Mapping[str, tuple[np.ndarray[Any, Any] | None, ...]],
) -> list[Tap]:
    """Return taps of a program that was changed: ``names`` maps old node names to new ones.

    ``kept`` says which places of an old tensor are left, by axis.
    """
    return [
        Tap(names[tap.student], tap.teacher, _compose(tap.kept, kept.get(tap.student, ())))
        for tap in taps
        if tap.student in names
    ]


def _compose(
    first: tuple[Tensor | None, ...], second: tuple[np.ndarray[Any, Any] | None, ...]
) -> tuple[Tensor | None, ...]:
    """Return the places that are left after two removals, by axis of the first tensor."""
    if not second:
        return first
    first = first or (None,) * len(second)
    places: list[Tensor | None] = []
    for earlier, later in zip(first, second, strict=True):
        chosen = None if later is None else torch.as_tensor(later, dtype=torch.int64)
        places.append(earlier if chosen is None else chosen if earlier is None else earlier[chosen])
    return tuple(places)
