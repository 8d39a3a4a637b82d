"""Removing units and zeroing what reads them come to the same."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import RunCli
from networks import build, trace
from prunable_networks import PRUNABLE, inputs
from torch import Tensor, fx, nn

from edgekd.errors import StageError
from edgekd.graph.program import digest, output_tensors, to_program
from edgekd.prune.analysis import Analysis, analyse
from edgekd.prune.form import prunable_form
from edgekd.prune.groups import Dependencies
from edgekd.prune.surgery import Smaller, mask_consumers, remove

Removal = dict[str, list[int]]


@cache
def prunable(name: str) -> tuple[nn.Module, fx.GraphModule, Analysis]:
    net, example = build(PRUNABLE[name][0]), inputs(name, 2)
    graph, _ = trace(net, *example)
    form = prunable_form(graph, example)
    return net, form, analyse(form, example)


def some_units(dependencies: Dependencies, seed: int, *, least: int = 1) -> Removal:
    """Choose units of every group, at least one and never all."""
    choose = random.Random(seed)
    return {
        group.name: sorted(
            choose.sample(range(group.size), choose.randint(least, group.size - 1))
        )
        for group in dependencies.groups
    }


class Values(fx.Interpreter):
    """Every value that a program computes."""

    def __init__(self, module: fx.GraphModule, *given: Tensor) -> None:
        super().__init__(module)
        self.found: dict[str, Any] = {}
        with torch.no_grad():
            self.outputs = output_tensors(self.run(*given))

    def run_node(self, n: fx.Node) -> Any:
        self.found[n.name] = result = super().run_node(n)
        return result


def check(smaller: Smaller, masked: fx.GraphModule, *given: Tensor) -> None:
    """Check outputs for some batch sizes, and what stayed of every tensor on the way."""
    for batch in (1, 2, 5):
        part = tuple(x[:batch] for x in given)
        small, full = Values(smaller.module, *part), Values(masked, *part)
        for a, b in zip(small.outputs, full.outputs, strict=True):
            assert a.shape == b.shape and a.dtype == b.dtype
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    for name, kept in smaller.kept.items():
        expected = full.found[name]
        for axis, places in enumerate(kept):
            if places is not None:
                expected = expected.index_select(axis, torch.from_numpy(places))
        torch.testing.assert_close(small.found[name], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", PRUNABLE)
def test_a_smaller_program_computes_what_the_masked_one_does(name: str) -> None:
    net, form, analysis = prunable(name)
    given = inputs(name, 5, seed=1)
    with torch.no_grad():
        torch.testing.assert_close(form(*given), net(*given), atol=1e-5, rtol=1e-4)
    removed = some_units(analysis.dependencies, seed=len(name))
    before = digest(form)
    smaller = remove(form, analysis, removed, inputs(name, 2))
    check(smaller, mask_consumers(form, analysis.dependencies, removed), *given)
    assert digest(form) == before
    assert analysis.dependencies.groups
    for group in analysis.dependencies.groups:  # all that was named is gone, and nothing else
        for member in (*group.produced, *group.consumed):
            lost = {
                (place, member.tensor, member.axis)
                for other in analysis.dependencies.groups
                for m in {*other.produced, *other.consumed}
                if (m.tensor, m.axis) == (member.tensor, member.axis)
                for unit in removed[other.name]
                for place in m.indices[unit]
            }
            old, new = (stored(m, member.tensor) for m in (form, smaller.module))
            assert new.shape[member.axis] == old.shape[member.axis] - len(lost)


def stored(module: fx.GraphModule, name: str) -> Tensor:
    path, _, leaf = name.rpartition(".")
    return getattr(module.get_submodule(path), leaf)


@pytest.mark.parametrize("name", ["resnet", "shuffle", "fused_heads"])
def test_removing_nothing_changes_nothing(name: str) -> None:
    _, form, analysis = prunable(name)
    given = inputs(name, 3, seed=2)
    nothing: Removal = {group.name: [] for group in analysis.dependencies.groups}
    same = remove(form, analysis, nothing, inputs(name, 2))
    assert all(places is None for kept in same.kept.values() for places in kept)
    with torch.no_grad():
        assert torch.equal(same.module(*given), form(*given))
    stored_before = {t.data_ptr() for t in form.state_dict().values()}
    assert not stored_before & {t.data_ptr() for t in same.module.state_dict().values()}


def test_the_smaller_program_can_be_analysed_and_pruned_again() -> None:
    _, form, analysis = prunable("grouped")
    example = inputs("grouped", 2)
    for seed in range(2):
        removed = {g.name: [0] for g in analysis.dependencies.groups if g.size > 2}
        smaller = remove(form, analysis, removed, example)
        check(smaller, mask_consumers(form, analysis.dependencies, removed), *inputs("grouped", 5))
        form, analysis = smaller.module, analyse(smaller.module, example)
        assert removed and seed < 2


def test_other_values_of_the_same_program_may_be_cut() -> None:
    _, form, analysis = prunable("chain")
    trained, _ = trace(build(PRUNABLE["chain"][0], seed=7), *inputs("chain", 2))
    trained = prunable_form(trained, inputs("chain", 2))
    removed = some_units(analysis.dependencies, seed=3)
    smaller = remove(trained, analysis, removed, inputs("chain", 2))
    check(smaller, mask_consumers(trained, analysis.dependencies, removed), *inputs("chain", 5))


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ({"a.0": list(range(8))}, "group 'a.0' would lose all of its 8 units"),
        ({"nothing": [1]}, "no group 'nothing'"),
        ({"a.0": [8]}, "units 0 to 7"),
    ],
)
def test_impossible_removals_are_refused(removed: Removal, message: str) -> None:
    _, form, analysis = prunable("chain")
    with pytest.raises(StageError, match=message):
        remove(form, analysis, removed, inputs("chain", 2))


RELOAD = """
import sys
sys.modules["edgekd"] = None  # any import of it fails
import torch
module = torch.export.load(sys.argv[1]).module()
given = torch.load(sys.argv[2], weights_only=True)
torch.save([module(*(x[:n] for x in given)) for n in (1, 5)], sys.argv[3])
"""


def test_a_saved_program_needs_plain_torch_only(run_python: RunCli, tmp_path: Path) -> None:
    given = {}
    for name in ("resnet", "shuffle", "fused_heads"):
        _, form, analysis = prunable(name)
        removed = some_units(analysis.dependencies, seed=5)
        smaller = remove(form, analysis, removed, inputs(name, 2))
        torch.export.save(to_program(smaller.module, inputs(name, 2)), tmp_path / f"{name}.pt2")
        given[name] = smaller.module, inputs(name, 5)
    name, (module, batch) = "fused_heads", given["fused_heads"]
    for name, (module, batch) in given.items():
        torch.save(batch, tmp_path / "in.pt")
        files = (tmp_path / f"{name}.pt2", tmp_path / "in.pt", tmp_path / "out.pt")
        done = run_python("-c", RELOAD, *map(str, files))
        assert done.returncode == 0, done.stderr
        for found in torch.load(tmp_path / "out.pt", weights_only=True):
            with torch.no_grad():
                expected = module(*(x[: len(found)] for x in batch))
            torch.testing.assert_close(found, expected)


def test_kept_names_what_the_shortened_stage_kept() -> None:
    _, form, analysis = prunable("resnet")
    smaller = remove(form, analysis, {"stem.0": [1, 3]}, inputs("resnet", 2))
    kept = smaller.kept["relu_2"]
    assert kept[1] is not None and np.array_equal(kept[1], [0, 2])
    assert (kept[0], *kept[2:]) == (None, None, None)
    assert smaller.kept["relu_4"] == (None,) * 4
