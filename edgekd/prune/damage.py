"""What a narrower group or a missing block does to the outputs, each alone and before training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, fx

from edgekd.algorithms.kd_loss import kl_loss, relative_mse_loss
from edgekd.graph.program import output_tensors
from edgekd.prune.groups import Dependencies, Group, Removed
from edgekd.prune.surgery import mask_consumers

MOST_WIDTHS = 8
"""Options of one group: more of them cost an evaluation each and hardly change the choice."""

Inputs = tuple[Tensor, ...]
Judge = Callable[[fx.GraphModule], float]


def widths(group: Group, multiple: int) -> list[int]:
    """Return how many units may stay, ascending: all, or so many that outputs are a multiple.

    There are at most ``MOST_WIDTHS``, spread over the whole range.
    """
    fitting = [kept for kept in range(1, group.size) if kept * group.rows % multiple == 0]
    room = MOST_WIDTHS - 1
    if len(fitting) > room:
        step = (len(fitting) - 1) / (room - 1)
        fitting = [fitting[round(i * step)] for i in range(room)]
    return [*fitting, group.size]


def least_important(scores: Tensor, kept: int) -> list[int]:
    """Return the units to remove so that the ``kept`` highest scores stay, ascending."""
    order = torch.argsort(scores, stable=True)
    return sorted(order[: len(scores) - kept].tolist())


def removal(scores: Mapping[str, Tensor], kept: Mapping[str, int]) -> Removed:
    """Return which units go when every group keeps so many of its most important ones."""
    chosen = {name: least_important(scores[name], count) for name, count in kept.items()}
    return {name: units for name, units in chosen.items() if units}


def make_judge(
    reference: fx.GraphModule, samples: Iterable[Inputs], *, classification: bool
) -> Judge:
    """Return a function that compares a program's outputs with those of ``reference``.

    The measure is the mean KL divergence of the class probabilities in nats, or the squared error
    over the mean square of each output where there are no classes.
    """
    batches = list(samples)
    expected = _predict(reference, batches)

    def judge(module: fx.GraphModule) -> float:
        found = _predict(module, batches)
        if classification:
            return max(0.0, float(kl_loss(found[0].double(), expected[0].double(), 1.0)))
        pairs = zip(found, expected, strict=True)
        return float(torch.stack([relative_mse_loss(a.float(), b.float()) for a, b in pairs]).sum())

    return judge


def width_damage(
    module: fx.GraphModule,
    dependencies: Dependencies,
    options: Mapping[str, Sequence[int]],
    scores: Mapping[str, Tensor],
    judge: Judge,
    advance: Callable[[int], None],
) -> dict[str, dict[int, float]]:
    """Return group -> units kept -> how much worse ``judge`` finds the program than it is now.

    The least important units go, and nothing else changes. A smaller width never counts as less
    harmful than a larger one: where it measures so, that is noise.
    """
    now = judge(module)
    table: dict[str, dict[int, float]] = {}
    for name, kept_units in options.items():
        row, worst = {}, 0.0
        for kept in sorted(kept_units, reverse=True):
            removed = removal(scores, {name: kept})
            if removed:
                changed = mask_consumers(module, dependencies, removed)
                worst = max(worst, judge(changed) - now)
                advance(1)
            row[kept] = worst
        table[name] = row
    return table


def summed_importance(
    options: Mapping[str, Sequence[int]], scores: Mapping[str, Tensor]
) -> dict[str, dict[int, float]]:
    """Return group -> units kept -> the summed importance of what goes."""
    return {
        name: {
            kept: float(scores[name][least_important(scores[name], kept)].sum())
            for kept in kept_units
        }
        for name, kept_units in options.items()
    }


@torch.no_grad()
def _predict(module: fx.GraphModule, batches: Sequence[Inputs]) -> tuple[Tensor, ...]:
    found = [output_tensors(module(*inputs)) for inputs in batches]
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))
