"""Which widths cost little enough and do the least damage: a knapsack whose items interact.

HALP (Shen et al., NeurIPS 2022, section 3) gives each channel group the latency that its own
layer saves, and solves a knapsack. But narrowing a layer also takes inputs from the layers that
read it, which may save as much. So here the cost is a function of the whole assignment, and the
knapsack is solved through its Lagrangian (Everett 1963): ``damage + multiplier * cost`` is lowered
one variable at a time, the multiplier is found by bisection, and what the target leaves open is
used up by exchanges of two variables.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

Assignment = dict[str, int]  # variable -> the option chosen, such as a layer's width

_BISECTIONS = 24
_SHAKES, _SHAKEN = 60, 3  # how often to start again, and how many variables are then changed
_MOST_CALLS = 30000  # of the cost, behind which it does not start again


class TargetError(ValueError):
    """No assignment costs as little as the target; ``smallest`` is the least cost found."""

    def __init__(self, target: float, smallest: float) -> None:
        super().__init__(f"the smallest assignment still costs {smallest:.6g}, over {target:.6g}")
        self.target, self.smallest = target, smallest


@dataclass(frozen=True)
class Found:
    """The chosen option of every variable, what it costs and the sum of the damages."""

    assignment: Assignment
    cost: float
    damage: float


def search_widths(
    damage: Mapping[str, Mapping[int, float]],
    cost: Callable[[Mapping[str, int]], float],
    target: float,
) -> Found:
    """Minimise the total damage of an assignment whose cost is at most ``target``.

    ``damage`` maps variable -> option -> damage; whether a block is dropped is a variable with two
    options. ``cost`` takes a whole assignment and is called thousands of times. The same input
    always gives the same answer. It is not always the best one: on random instances of up to 4
    variables with 4 options it was optimal in at least 98 % (see its test).

    Raises TargetError when no assignment that was found costs as little as ``target``, and
    ValueError when a variable has no option.
    """
    if not all(damage.values()):
        raise ValueError("every variable needs an option")
    search = _Search(damage, cost, target)
    search.bisect()
    if search.best is None:
        raise TargetError(target, search.smallest)
    search.exchange()
    search.shake()
    return search.best


class _Search:
    def __init__(
        self,
        damage: Mapping[str, Mapping[int, float]],
        cost: Callable[[Mapping[str, int]], float],
        target: float,
    ) -> None:
        self.damage, self.target = damage, target
        self.best: Found | None = None
        self.smallest = math.inf
        self.multiplier = 0.0
        self._cost = cost
        self._known: dict[tuple[int, ...], float] = {}

    def bisect(self) -> None:
        """Find the multiplier that just meets the target; every assignment on the way counts."""
        harmless = {name: min(options, key=options.__getitem__) for name, options in self._items()}
        harmful = {name: max(options, key=options.__getitem__) for name, options in self._items()}
        # From both ends: where layers only save together, no step from the harmless one helps.
        cheapest = min(
            (self._descend(start, math.inf) for start in (harmless, harmful)), key=self.cost
        )
        if self.cost(harmless) <= self.target or self.cost(cheapest) > self.target:
            return
        # Bounds of the slope: all damage for the least saving, and nothing for everything.
        low, high = 0.0, self._steepest(harmless)
        large, small = harmless, cheapest
        for _ in range(_BISECTIONS):
            middle = high / 2**_BISECTIONS if low == 0 else math.sqrt(low * high)
            ends = [self._descend(start, middle) for start in (large, small)]
            end = min(ends, key=lambda a: self._damage(a) + middle * self.cost(a))
            if self.cost(end) <= self.target:
                high, small = middle, end
            else:
                low, large = middle, end
        self.multiplier = high

    def exchange(self) -> None:
        """Lower the damage of the best assignment by changes of one or two variables."""
        improved = True
        while improved and self.best is not None:
            before = self.best
            for changed in self._exchanges(before.assignment):
                self.cost(changed)  # a better one becomes the best
                if self.best is not before:
                    break
            improved = self.best is not before

    def shake(self) -> None:
        """Start again near the best assignment, with a few variables at random options."""
        chosen = random.Random(0)
        for _ in range(_SHAKES):
            if self.best is None or len(self._known) > _MOST_CALLS:
                return
            before, start = self.best, dict(self.best.assignment)
            for name in chosen.sample(list(start), min(_SHAKEN, len(start))):
                start[name] = chosen.choice(list(self.damage[name]))
            self._descend(start, self.multiplier)
            if self.best is not before:
                self.exchange()

    def cost(self, assignment: Assignment) -> float:
        """Return the cost, and keep the assignment if it is the best so far."""
        key = tuple(assignment.values())
        if key not in self._known:
            found = self._known[key] = self._cost(assignment)
            self.smallest = min(self.smallest, found)
            if found <= self.target:
                self._keep(Found(dict(assignment), found, self._damage(assignment)))
        return self._known[key]

    def _keep(self, found: Found) -> None:
        best = self.best
        if best is None or (found.damage, found.cost) < (best.damage, best.cost):
            self.best = found

    def _descend(self, start: Assignment, multiplier: float) -> Assignment:
        """Lower ``damage + multiplier * cost`` one variable at a time until none helps."""

        def value(assignment: Assignment) -> tuple[float, float]:
            cost, damage = self.cost(assignment), self._damage(assignment)
            return (cost, damage) if multiplier == math.inf else (damage + multiplier * cost, cost)

        current, lowest = start, value(start)
        improved = True
        while improved:
            improved = False
            for name, options in self._items():
                for option in options:
                    changed = {**current, name: option}
                    if (found := value(changed)) < lowest:
                        current, lowest, improved = changed, found, True
        return current

    def _exchanges(self, current: Assignment) -> Iterator[Assignment]:
        """Yield what does less damage, or as much: one variable changed, or two."""
        damage = self._damage(current)
        singles = [
            (options[option] - options[current[name]], name, option)
            for name, options in self._items()
            for option in options
            if option != current[name]
        ]
        singles.sort(key=lambda single: single[0])
        for change, name, option in singles:
            if change <= 0:
                yield {**current, name: option}
        tolerance = 1e-12 * abs(damage)
        for first in singles:
            for second in singles:
                if first[0] + second[0] > tolerance:
                    break
                if first[1] != second[1] and first[0] <= second[0]:
                    yield {**current, first[1]: first[2], second[1]: second[2]}

    def _steepest(self, harmless: Assignment) -> float:
        """Return a multiplier at which cost decides everything that it can decide."""
        spread = sum(max(o.values()) - min(o.values()) for o in self.damage.values())
        return max(spread, 1e-30) / max(self.cost(harmless) - self.target, 1e-30) * 1e3

    def _damage(self, assignment: Assignment) -> float:
        return sum(self.damage[name][option] for name, option in assignment.items())

    def _items(self) -> list[tuple[str, Mapping[int, float]]]:
        return list(self.damage.items())
