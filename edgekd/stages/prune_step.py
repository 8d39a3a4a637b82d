"""One step of pruning: rank the units, weigh what their loss does, choose and cut."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from edgekd.data.loader import batches
from edgekd.graph.taps import Tap
from edgekd.progress import Progress
from edgekd.prune.analysis import analyse
from edgekd.prune.choice import Choice
from edgekd.prune.damage import make_judge, summed_importance, width_damage, widths
from edgekd.prune.groups import Group
from edgekd.prune.importance import rank_units
from edgekd.prune.residual import ResidualBlock, bypass, residual_blocks
from edgekd.recipe import PruneStage
from edgekd.stages.prune_ruler import Ruler
from edgekd.stages.prune_search import Weighed, choose_measured, choose_predicted
from edgekd.state import CompressionState

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class Narrowed:
    """The smaller program, taps that lead from it to the teacher, and what is to be reported."""

    module: fx.GraphModule
    taps: list[Tap]
    record: dict[str, Any]


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
    search = choose_measured if ruler.source == "measured" and last else choose_predicted
    found = search(options, weighed, taps, ruler, gain)
    progress.note(f"{title}: {_summary(weighed, found.choice)}")
    record = {
        "wanted_gain": gain,
        "attempts": found.attempts,
        "chosen": found.number,
        "kept": found.choice.kept,
        "blocks_removed": [block.name for block in found.choice.blocks],
        "damage": found.choice.damage,
        "layers_timed": weighed.scale.layers_timed,
        "original_ms": None if ruler.source == "counted" else weighed.scale.original / 1e3,
    }
    return Narrowed(found.cut.module, found.cut.taps, record)


def _weigh(
    state: CompressionState,
    options: PruneStage,
    teacher: fx.GraphModule,
    module: fx.GraphModule,
    ruler: Ruler,
    progress: Progress,
    *,
    title: str,
) -> Weighed:
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
    found = residual_blocks(module) if drops_blocks(options) else []
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
        blocks = {block: _importance(block, groups, scores) for block in found}
    scale = ruler.scale(module, analysis.dependencies, choices)
    return Weighed(module, analysis, choices, scores, damage, blocks, scale)


def drops_blocks(options: PruneStage) -> bool:
    """Tell whether blocks may go: the same share of every layer leaves them all."""
    return options.blocks and options.across != "uniform"


def _importance(
    block: ResidualBlock, groups: tuple[Group, ...], scores: Mapping[str, Tensor]
) -> float:
    """Return the summed importance of the units inside a block.

    A block without units of its own (a single layer) counts as those that it adds to.
    """
    inside = [g for g in groups if g.name in block.layers]
    if not inside:
        tensors = {m.tensor: g for g in groups for m in g.produced}
        inside = [g for tensor, g in tensors.items() if tensor.rpartition(".")[0] in block.layers]
    return float(sum(scores[group.name].sum() for group in dict.fromkeys(inside)))


def _summary(weighed: Weighed, choice: Choice) -> str:
    narrower = [
        f"{name} {max(weighed.options[name])} to {kept}"
        for name, kept in choice.kept.items()
        if kept < max(weighed.options[name])
    ]
    gone = [f"without {block.name}" for block in choice.blocks]
    return ", ".join([*gone, *narrower]) or "nothing had to go"


def samples(state: CompressionState, limit: int, size: int) -> Iterator[Inputs]:
    """Yield batches of the first ``limit`` calibration samples."""
    for inputs, _ in batches(state.data, state.data.calibration, state.spec, size, limit=limit):
        yield inputs
