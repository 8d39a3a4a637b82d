"""One step of pruning: rank, weigh, choose, cut, and check the choice by measurement."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from edgekd.algorithms.width_search import TargetError
from edgekd.data.loader import batches
from edgekd.errors import StageError
from edgekd.graph.taps import Tap
from edgekd.progress import Progress
from edgekd.prune.analysis import Analysis, analyse
from edgekd.prune.choice import Choice, choose_by_damage, choose_uniform
from edgekd.prune.damage import make_judge, removal, summed_importance, width_damage, widths
from edgekd.prune.importance import rank_units
from edgekd.prune.residual import ResidualBlock, bypass, residual_blocks
from edgekd.prune.surgery import remove
from edgekd.recipe import PruneStage
from edgekd.stages.prune_ruler import Ruler, Scale
from edgekd.state import CompressionState

Inputs = tuple[Tensor, ...]
ATTEMPTS = 8
SLACK = 1.05
"""A measured candidate may be this much faster than asked before the search is given more room."""


@dataclass(frozen=True)
class Narrowed:
    """The smaller program, taps that lead from it to the teacher, and what is to be reported."""

    module: fx.GraphModule
    taps: list[Tap]
    record: dict[str, Any]


@dataclass(frozen=True)
class _Weighed:
    """Everything that a choice depends on: it is the same for all attempts of a step."""

    module: fx.GraphModule
    analysis: Analysis
    options: dict[str, list[int]]
    scores: dict[str, Tensor]
    damage: dict[str, dict[int, float]]
    blocks: dict[ResidualBlock, float]
    scale: Scale


def narrow(
    state: CompressionState,
    options: PruneStage,
    teacher: fx.GraphModule,
    module: fx.GraphModule,
    taps: list[Tap],
    ruler: Ruler,
    gain: float,
    progress: Progress,
    *,
    title: str,
    last: bool,
) -> Narrowed:
    """Return a version of ``module`` that costs the original's ``gain``-th part or less.

    Where latency is measured, the last step measures its candidates whole and repeats the search
    with a corrected limit until one is as fast as asked and no faster than ``SLACK`` times that.

    Raises StageError when not even the smallest candidate costs so little.
    """
    weighed = _weigh(state, options, teacher, module, ruler, progress, title=title)
    measured = ruler.source == "measured" and last
    limit = weighed.scale.original / gain
    attempts: list[dict[str, float]] = []
    best: tuple[float, Choice, _Cut] | None = None
    chosen = 0
    for _ in range(ATTEMPTS if measured else 1):
        choice = _choose(options, weighed, limit, gain, ruler)
        cut = _cut(weighed, choice, taps, state.example)
        predicted = weighed.scale.original / choice.cost
        if not measured:
            best = choice.damage, choice, cut
            attempts.append({"predicted": predicted})
            break
        original_us, candidate_us = ruler.latencies(cut.module)
        found = original_us / candidate_us
        attempts.append({"predicted": predicted, "measured": found})
        if found >= gain and (best is None or choice.damage < best[0]):
            best, chosen = (choice.damage, choice, cut), len(attempts) - 1
        if gain <= found <= gain * SLACK:
            break
        limit = _corrected(limit, choice.cost, found / gain, tried=len(attempts))
    if best is None:
        fastest = max(attempt["measured"] for attempt in attempts)
        raise StageError(
            f"prune: no candidate is {gain:.2f}x as fast when measured, the fastest is "
            f"{fastest:.2f}x; ask for less, or measure again when the machine is quiet"
        )
    _, choice, cut = best
    progress.note(f"{title}: {_summary(weighed, choice)}")
    record = {
        "wanted_gain": gain,
        "attempts": attempts,
        "chosen": chosen,
        "kept": choice.kept,
        "blocks_removed": [block.name for block in choice.blocks],
        "damage": choice.damage,
        "layers_timed": weighed.scale.layers_timed,
    }
    return Narrowed(cut.module, cut.taps, record)


def _corrected(limit: float, cost: float, found: float, *, tried: int) -> float:
    """Return the next limit; ``found`` is the measured gain over the wanted one.

    Choices come in jumps, so a correction by the error alone may find the same one again: each
    further attempt goes a little beyond.
    """
    if found < 1:
        return min(limit, cost) * found * (1 - 0.01 * tried)
    return limit * math.sqrt(min(found, SLACK))


def _weigh(
    state: CompressionState,
    options: PruneStage,
    teacher: fx.GraphModule,
    module: fx.GraphModule,
    ruler: Ruler,
    progress: Progress,
    *,
    title: str,
) -> _Weighed:
    analysis = analyse(module, state.example)
    groups = analysis.dependencies.groups
    multiple = options.multiple or state.profile.channel_multiple
    choices = {group.name: widths(group, multiple) for group in groups}
    scores = rank_units(
        module,
        analysis.dependencies,
        options.importance,
        lambda: samples(state, options.samples, 16),
        classification=state.classification,
        seed=state.seed,
    )
    found = residual_blocks(module) if options.blocks and options.across != "uniform" else []
    damage: dict[str, dict[int, float]] = {}
    blocks: dict[ResidualBlock, float] = {}
    if options.across == "damage":
        judge = make_judge(
            teacher, samples(state, options.samples, 64), classification=state.classification
        )
        count = sum(len(kept) - 1 for kept in choices.values()) + len(found)
        with progress.task(f"{title}: damage", count) as advance:
            damage = width_damage(module, analysis.dependencies, choices, scores, judge, advance)
            now = judge(module)
            for block in found:
                without = bypass(module, [block], state.example).module
                blocks[block] = max(0.0, judge(without) - now)
                advance(1)
    elif options.across == "importance":
        damage = summed_importance(choices, scores)
        for block in found:
            inside = [g.name for g in groups if g.name in block.layers]
            blocks[block] = float(sum(scores[name].sum() for name in inside))
    scale = ruler.scale(module, analysis.dependencies, choices)
    return _Weighed(module, analysis, choices, scores, damage, blocks, scale)


def _choose(
    options: PruneStage, weighed: _Weighed, limit: float, gain: float, ruler: Ruler
) -> Choice:
    try:
        if options.across == "uniform":
            return choose_uniform(weighed.options, weighed.scale.cost_of, limit)
        return choose_by_damage(weighed.damage, weighed.blocks, weighed.scale.cost_of, limit)
    except TargetError as error:
        reach = weighed.scale.original / error.smallest
        raise StageError(
            f"prune: a gain of {gain:.2f}x is out of reach: the smallest candidate has "
            f"{reach:.2f}x ({ruler.source}); ask for less, or allow narrower layers with 'multiple'"
        ) from None


@dataclass(frozen=True)
class _Cut:
    module: fx.GraphModule
    taps: list[Tap]


def _cut(weighed: _Weighed, choice: Choice, taps: list[Tap], example: tuple[Tensor, ...]) -> _Cut:
    """Take out what was not chosen; taps whose tensor is gone are dropped."""
    removed = removal(weighed.scores, choice.kept)
    smaller = remove(weighed.module, weighed.analysis, removed, example)
    taps = follow(taps, smaller.names, smaller.kept)
    names = {block.name for block in choice.blocks}
    blocks = [block for block in residual_blocks(smaller.module) if block.name in names]
    if not blocks:
        return _Cut(smaller.module, taps)
    shorter = bypass(smaller.module, blocks, example)
    return _Cut(shorter.module, follow(taps, shorter.names, {}))


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


def _summary(weighed: _Weighed, choice: Choice) -> str:
    narrower = [
        f"{name} {max(weighed.options[name])} to {kept}"
        for name, kept in choice.kept.items()
        if kept < max(weighed.options[name])
    ]
    gone = [f"without {block.name}" for block in choice.blocks]
    return ", ".join([*gone, *narrower]) or "nothing had to go"


def samples(state: CompressionState, limit: int, size: int) -> Iterator[Inputs]:
    """Yield batches of the first ``limit`` calibration samples."""
    done = 0
    for inputs, _ in batches(state.data, state.data.calibration, state.spec, size):
        if done >= limit:
            return
        yield tuple(tensor[: limit - done] for tensor in inputs)
        done += size
