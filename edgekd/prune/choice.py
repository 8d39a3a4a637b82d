"""Which units and which blocks go, for a cost that must not be exceeded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgekd.algorithms.width_search import Found, TargetError, search_widths
from edgekd.prune.residual import ResidualBlock

Damage = Mapping[str, Mapping[int, float]]  # group -> units kept -> damage
CostOf = Callable[[Mapping[str, int], frozenset[str]], float]  # of units kept and dropped nodes


@dataclass(frozen=True)
class Choice:
    """Units kept by group, the blocks that go, what that costs and the summed damage."""

    kept: dict[str, int]
    blocks: tuple[ResidualBlock, ...]
    cost: float
    damage: float


def choose_by_damage(
    damage: Damage, blocks: Mapping[ResidualBlock, float], cost_of: CostOf, limit: float
) -> Choice:
    """Return the choice of least summed damage that costs at most ``limit``.

    ``blocks`` has the damage of leaving each out. Raises TargetError when nothing is cheap enough.
    """
    by_variable = {f"block {block.name}": block for block in blocks}
    variables: dict[str, Mapping[int, float]] = dict(damage)
    variables |= {name: {1: 0.0, 0: blocks[block]} for name, block in by_variable.items()}

    def dropped(assignment: Mapping[str, int]) -> list[ResidualBlock]:
        return [block for name, block in by_variable.items() if not assignment[name]]

    def cost(assignment: Mapping[str, int]) -> float:
        kept = {name: assignment[name] for name in damage}
        return cost_of(kept, nodes_of(dropped(assignment)))

    found: Found = search_widths(variables, cost, limit)
    kept = {name: found.assignment[name] for name in damage}
    return Choice(kept, tuple(dropped(found.assignment)), found.cost, found.damage)


def choose_uniform(options: Mapping[str, Sequence[int]], cost_of: CostOf, limit: float) -> Choice:
    """Return the widest choice with the same share of every group that costs at most ``limit``.

    Raises TargetError when nothing is cheap enough.
    """
    cheapest = float("inf")
    for percent in range(100, 0, -1):
        kept = {name: _nearest(widths, percent) for name, widths in options.items()}
        cost = cost_of(kept, frozenset())
        if cost <= limit:
            return Choice(kept, (), cost, 0.0)
        cheapest = min(cheapest, cost)
    raise TargetError(limit, cheapest)


def _nearest(widths: Sequence[int], percent: int) -> int:
    wanted = max(widths) * percent / 100
    return min(widths, key=lambda width: abs(width - wanted))


def nodes_of(blocks: Sequence[ResidualBlock]) -> frozenset[str]:
    """Return the nodes that vanish when these blocks are left out."""
    return frozenset(node for block in blocks for node in (*block.nodes, block.add))
