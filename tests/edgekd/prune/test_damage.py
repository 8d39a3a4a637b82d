"""Widths that may stay, which units go for them, and what that does to the outputs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from prunable_networks import inputs
from pruning import prunable

from edgekd.graph.program import output_tensors
from edgekd.prune.damage import (
    MOST_WIDTHS,
    least_important,
    make_judge,
    removal,
    summed_importance,
    width_damage,
    widths,
)
from edgekd.prune.groups import Group
from edgekd.prune.surgery import remove


def group(size: int, rows: int = 1) -> Group:
    return Group("layer", "channels", size, rows, (), ())


@given(st.integers(2, 400), st.sampled_from([1, 2, 3, 4, 16]), st.sampled_from([1, 8, 16, 32]))
def test_widths_are_multiples_spread_over_the_range(size: int, rows: int, multiple: int) -> None:
    found = widths(group(size, rows), multiple)
    assert found[-1] == size and found == sorted(set(found)) and len(found) <= MOST_WIDTHS
    assert all(kept >= 1 and kept * rows % multiple == 0 for kept in found[:-1])
    fitting = [kept for kept in range(1, size) if kept * rows % multiple == 0]
    assert not fitting or {fitting[0], fitting[-1]} <= set(found)


def test_the_least_important_go_and_the_first_of_equals() -> None:
    scores = torch.tensor([0.5, 0.1, 0.9, 0.1, 0.3])
    assert [least_important(scores, kept) for kept in (5, 4, 3, 2, 1)] == [
        [],
        [1],
        [1, 3],
        [1, 3, 4],
        [0, 1, 3, 4],
    ]
    assert removal({"a": scores, "b": scores}, {"a": 5, "b": 3}) == {"b": [1, 3]}


def test_summed_importance_is_of_what_goes() -> None:
    scores = torch.tensor([0.5, 0.1, 0.9])
    (found,) = summed_importance({"a": [1, 2, 3]}, {"a": scores}).values()
    assert found == pytest.approx({1: 0.6, 2: 0.1, 3: 0.0})


@pytest.mark.parametrize("classification", [True, False])
def test_damage_is_measured_and_never_falls_with_narrower_layers(classification: bool) -> None:
    _, form, analysis = prunable("resnet")
    samples = [inputs("resnet", 8, seed=seed) for seed in range(3)]
    generator = torch.Generator().manual_seed(0)
    groups = analysis.dependencies.groups
    scores = {g.name: torch.rand(g.size, generator=generator) for g in groups}
    options = {g.name: widths(g, 1) for g in groups}
    judge = make_judge(form, samples, classification=classification)
    assert judge(form) == pytest.approx(0, abs=1e-6)
    done: list[int] = []

    found = width_damage(form, analysis.dependencies, options, scores, judge, done.append)

    assert len(done) == sum(len(kept) - 1 for kept in options.values())
    for name, row in found.items():
        in_order = [row[kept] for kept in sorted(row, reverse=True)]
        assert in_order[0] == 0 and in_order[-1] > 0 and in_order == sorted(in_order), name
    # The first that goes counts as measured, on the program that is really smaller.
    name, kept = groups[0].name, options[groups[0].name][-2]
    smaller = remove(form, analysis, removal(scores, {name: kept}), inputs("resnet", 2))
    assert found[name][kept] == pytest.approx(max(0.0, judge(smaller.module)), rel=1e-3, abs=1e-6)


def test_the_judge_compares_class_probabilities() -> None:
    _, form, _ = prunable("resnet")
    samples = [inputs("resnet", 8)]

    def shifted(*given: torch.Tensor) -> torch.Tensor:
        return output_tensors(form(*given))[0] + 3.0

    for classification, least in ((True, 0.0), (False, 0.1)):
        judge = make_judge(form, samples, classification=classification)
        found = judge(shifted)  # type: ignore[arg-type]
        assert (found < 1e-6) if classification else (found > least)
