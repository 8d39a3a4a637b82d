"""The measured search on a real program, with latencies that are scripted to be awkward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from prunable_networks import inputs
from pruning import prunable
from torch import fx

from edgekd.errors import StageError
from edgekd.graph.taps import Tap
from edgekd.prune.cost import CostModel
from edgekd.prune.damage import summed_importance, widths
from edgekd.recipe import PruneStage
from edgekd.stages.prune_ruler import Scale
from edgekd.stages.prune_search import ATTEMPTS, SLACK, Chosen, Weighed, choose_measured, follow

Latency = Callable[[float], float]  # share of the parameters that are left -> microseconds


def size(module: fx.GraphModule) -> float:
    """Return the share of the parameters that are left."""
    whole, left = (sum(p.numel() for p in m.parameters()) for m in (prunable("chain")[1], module))
    return left / whole


class Scripted:
    """A ruler whose latencies follow a rule, as no real machine would promise."""

    source = "measured"

    def __init__(self, state: Any, rule: Latency) -> None:
        self.state, self._rule = state, rule
        self.shares: list[float] = []

    def latencies(self, module: fx.GraphModule) -> tuple[float, float]:
        self.shares.append(size(module))
        return 100.0, self._rule(self.shares[-1])


class Example:
    example = inputs("chain", 2)


class NoTimes:
    source = "predicted"

    def times(self, shapes: Any) -> Any:
        return dict.fromkeys(shapes, 0.0)


def search(rule: Latency, gain: float, across: str) -> tuple[Scripted, Chosen]:
    _, form, analysis = prunable("chain")
    groups = analysis.dependencies.groups
    options = {group.name: widths(group, 1) for group in groups}
    generator = torch.Generator().manual_seed(0)
    scores = {g.name: torch.rand(g.size, generator=generator) for g in groups}
    model = CostModel(form, analysis.dependencies, Example.example, NoTimes())  # type: ignore[arg-type]
    original = model.parameters({})
    scale = Scale(model.parameters, original, 0)
    damage = summed_importance(options, scores)
    weighed = Weighed(form, analysis, options, scores, damage, {}, scale)
    ruler = Scripted(Example, rule)
    stage = PruneStage(stage="prune", speedup=2, across=across)  # type: ignore[arg-type]
    return ruler, choose_measured(stage, weighed, [], ruler, gain)  # type: ignore[arg-type]


@pytest.mark.parametrize("across", ["damage", "uniform"])
@pytest.mark.parametrize("slower", [0.8, 1.0, 1.2])
def test_a_wrong_prediction_is_corrected(across: str, slower: float) -> None:
    ruler, found = search(lambda share: 100 * share**slower, 2.0, across)
    ratios = [attempt["measured"] for attempt in found.attempts]
    chosen = ratios[ruler.shares.index(size(found.cut.module))]
    assert chosen >= 2.0
    holding = [ratio for ratio in ratios if ratio >= 2.0]
    assert len(ratios) <= ATTEMPTS and len(set(ruler.shares)) == len(ratios)
    if across == "uniform":  # of those that hold, the one that takes out least
        assert chosen == min(holding)


def test_what_is_fast_enough_is_kept_where_the_search_runs_out() -> None:
    """A jump over the slack: nothing lies between far too fast and too slow."""
    _, found = search(lambda share: 30.0 if share < 0.4 else 90.0, 2.0, "damage")
    ratios = [attempt["measured"] for attempt in found.attempts]
    assert max(ratios) > 2.0 * SLACK and min(ratios) < 2.0
    assert size(found.cut.module) < 0.4


@pytest.mark.parametrize("across", ["damage", "uniform"])
def test_where_none_is_fast_the_fastest_is_told(across: str) -> None:
    with pytest.raises(StageError) as caught:
        search(lambda share: 60 + 40 * share, 2.0, across)
    message = str(caught.value)
    assert message.startswith(
        "prune: no candidate is 2.00x as fast when measured, the fastest is 1"
    )
    assert "\n" not in message


def test_the_smallest_is_tried_where_the_prediction_says_it_is_too_slow() -> None:
    ruler, found = search(lambda _: 1.0, 100.0, "damage")
    assert len(ruler.shares) == len(found.attempts) == 1
    assert found.attempts[0]["predicted"] < 100 == found.attempts[0]["measured"]


def test_taps_follow_two_changes() -> None:
    first = Tap("a", "teacher_a")
    gone = Tap("b", "teacher_b")
    (once,) = follow([first, gone], {"a": "x"}, {"a": (None, torch.tensor([0, 2, 5]).numpy())})
    assert (once.student, once.teacher) == ("x", "teacher_a")
    (twice,) = follow([once], {"x": "y"}, {"x": (None, torch.tensor([1, 2]).numpy())})
    assert twice.kept[0] is None and twice.kept[1] is not None
    assert twice.student == "y" and twice.kept[1].tolist() == [2, 5]
    (same,) = follow([twice], {"y": "z"}, {})
    assert same.kept == twice.kept
