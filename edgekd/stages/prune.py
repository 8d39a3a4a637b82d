"""The prune stage: narrower layers and fewer blocks until a budget holds, with training between."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch
from torch import fx

from edgekd.bench.machine import runs_here
from edgekd.device import DeviceProfile
from edgekd.errors import StageError
from edgekd.graph.float_form import float_form
from edgekd.graph.program import clone
from edgekd.graph.taps import Tap, matching_taps
from edgekd.progress import Progress
from edgekd.prune.analysis import analyse
from edgekd.prune.cost import CostModel
from edgekd.prune.groups import Dependencies, Group, Locked
from edgekd.prune.residual import residual_blocks
from edgekd.recipe import PruneStage
from edgekd.stages.distillation import check_distillation, distill
from edgekd.stages.prune_resume import Position, chosen_by_first, store, take_up
from edgekd.stages.prune_ruler import Ruler, check_times, open_ruler
from edgekd.stages.prune_step import Narrowed, drops_blocks, narrow
from edgekd.stages.train_student import reestimate_statistics
from edgekd.state import CompressionState

BATCH = 64  # of the samples that the statistics of batch norms are taken from


def requires(state: CompressionState, options: PruneStage) -> None:
    """Refuse before any work what this stage cannot do on this model and data."""
    if options.distill is not None:
        check_distillation(state, options.distill, stage="prune")
    check_times(state, options)
    module = float_form(state.model, state.example)
    dependencies = analyse(module, state.example).dependencies
    lost = [locked for locked in dependencies.locked if not locked.followed]
    if lost and options.on_unprunable == "error":
        raise StageError(_unprunable(lost))
    if not dependencies.groups and not (drops_blocks(options) and residual_blocks(module)):
        raise StageError(
            "prune: nothing in this model can be taken out: no channels, heads or blocks are free; "
            "leave the stage out"
        )


def _unprunable(lost: list[Locked]) -> str:
    first = lost[0]
    where = f" ({first.line})" if first.line else ""
    more = f", and {len(lost) - 1} more layers" if len(lost) > 1 else ""
    return (
        f"prune: {first.layer} cannot be pruned: {first.reason}{where}{more}; change that line, or "
        "set 'on_unprunable: skip' to prune the rest"
    )


def describe(options: PruneStage, profile: DeviceProfile) -> str:
    """Say in one line what the stage will do for this target."""
    ((key, value),) = options.budget().items()
    how = "measured" if runs_here(profile) else "predicted"
    words = {
        "speedup": f"until {value:g}x as fast in float ({how})",
        "latency_ms": f"until {value:g} ms in float ({how})",
        "macs": f"until {value:.0%} of the multiplications are left",
        "parameters": f"until {value:.0%} of the parameters are left",
    }[key]
    what = "channels, heads and whole blocks" if drops_blocks(options) else "channels and heads"
    steps = "at once" if options.steps == 1 else f"in {options.steps} steps"
    training = (
        "no training"
        if options.distill is None
        else f"then {options.distill.epochs} epochs of distillation"
    )
    return f"{what} go {words}, {steps}, ranked by {options.importance}, {training}"


def run(state: CompressionState, options: PruneStage, progress: Progress) -> CompressionState:
    """Return the state with a smaller program in float."""
    teacher = float_form(state.teacher, state.example)
    before = analyse(teacher, state.example).dependencies
    for locked in before.locked:
        if not locked.followed:
            progress.note(f"prune: {locked.layer} stays as it is: {locked.reason}")
    position = take_up(state, options.steps, progress)
    gain = None if position is None else position.gain
    ruler = open_ruler(state, options, teacher, before, progress, gain=gain)
    module = clone(teacher)
    taps = matching_taps(
        module, teacher, () if options.distill is None else options.distill.feature_layers
    )
    steps = [] if position is None else position.finished
    # Gains grow by equal factors from step to step, as in HALP (Shen et al., NeurIPS 2022).
    for count in range(len(steps) + 1, options.steps + 1):
        if position is None or position.count != count:
            before_step = Position(count, ruler.gain, Narrowed(module, taps, {}), steps)
            choose = partial(_choose, state, options, teacher, before_step, ruler, progress)
            position = chosen_by_first(state, count, choose)
        module, taps = position.narrowed.module, position.narrowed.taps
        training = _recover(state, options, count, teacher, module, taps, progress)
        steps = [*steps, {**position.narrowed.record, **training}]
    return state.with_model(module, prune=_details(state, options, ruler, before, module, steps))


def _choose(
    state: CompressionState,
    options: PruneStage,
    teacher: fx.GraphModule,
    before: Position,
    ruler: Ruler,
    progress: Progress,
) -> Position:
    """Return the position of the same step with the smaller program in it, and store it."""
    count = before.count
    found = narrow(
        state,
        options,
        teacher,
        before.narrowed.module,
        before.narrowed.taps,
        ruler,
        ruler.gain ** (count / options.steps),
        progress,
        title=f"prune: step {count} of {options.steps}",
        last=count == options.steps,
    )
    reestimate_statistics(state, found.module, BATCH, torch.device("cpu"))
    return store(state, replace(before, narrowed=found), progress)


def _recover(
    state: CompressionState,
    options: PruneStage,
    count: int,
    teacher: fx.GraphModule,
    module: fx.GraphModule,
    taps: list[Tap],
    progress: Progress,
) -> dict[str, Any]:
    """Train the smaller program in place, as long as the step asks for."""
    if options.distill is None:
        return {}
    wanted = options.distill
    if count < options.steps:
        wanted = wanted.model_copy(update={"epochs": options.step_epochs})
    if not taps:
        wanted = wanted.model_copy(update={"feature_weight": 0.0})
    title = f"prune: distillation {count} of {options.steps}"
    return distill(state, teacher, module, wanted, progress, title=title, taps=taps)


def _details(
    state: CompressionState,
    options: PruneStage,
    ruler: Ruler,
    before: Dependencies,
    module: fx.GraphModule,
    steps: list[dict[str, Any]],
) -> dict[str, Any]:
    after = analyse(module, state.example).dependencies
    model = CostModel(module, after, state.example, ruler.times)
    return {
        "budget": options.budget(),
        "source": ruler.source,
        "wanted_gain": ruler.gain,
        "original_ms": steps[-1]["original_ms"],
        "importance": options.importance,
        "across": options.across,
        "groups": [
            {
                "name": group.name,
                "kind": group.kind,
                "rows": group.rows,
                "before": group.size,
                "after": _units_left(group, after, module),
            }
            for group in before.groups
        ],
        "blocks_removed": [name for step in steps for name in step["blocks_removed"]],
        "locked": [asdict(locked) for locked in before.locked],
        "macs": [ruler.original_model.macs({}), model.macs({})],
        "parameters": [ruler.original_model.parameters({}), model.parameters({})],
        "steps": steps,
    }


def _units_left(group: Group, after: Dependencies, module: fx.GraphModule) -> int:
    """Return how many units of an original's group are left; 0 where their layers are gone.

    Names may change: that of a group is its first layer's, which may be in a block that went. A
    single unit that is left is no group any more.
    """
    made = {(member.tensor, member.axis) for member in group.produced}
    same = [g for g in after.groups if {(m.tensor, m.axis) for m in g.produced} <= made]
    same.sort(key=lambda g: g.name != group.name)
    if same:
        return same[0].size
    stored = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    return int(any(tensor in stored for tensor, _ in made))
