"""Removing units and zeroing what reads them come to the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import RunCli
from marks import with_slow
from networks import build, trace
from prunable_networks import PRUNABLE, inputs
from pruning import Removal, check, prunable, some_units
from torch import Tensor, fx

from edgekd.errors import StageError
from edgekd.graph.float_form import float_form
from edgekd.graph.program import digest, to_program
from edgekd.prune.analysis import analyse
from edgekd.prune.surgery import mask_consumers, remove

# Whatever these are made of, others are too.
SLOW = ("transformer", "vit", "concat", "mlp", "chain", "one_input", "grey", "mobile", "windows")


@pytest.mark.parametrize("name", with_slow(PRUNABLE, SLOW))
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


@pytest.mark.parametrize("name", ["grouped", "strided"])
def test_the_smaller_program_can_be_analysed_and_pruned_again(name: str) -> None:
    _, form, analysis = prunable(name)
    example = inputs(name, 2)
    for _ in range(2):
        assert all(entry.followed for entry in analysis.dependencies.locked)
        removed = {g.name: [1] for g in analysis.dependencies.groups if g.size > 2}
        smaller = remove(form, analysis, removed, example)
        check(smaller, mask_consumers(form, analysis.dependencies, removed), *inputs(name, 5))
        form, analysis = smaller.module, analyse(smaller.module, example)
        assert removed


def test_other_values_of_the_same_program_may_be_cut() -> None:
    analysis = prunable("chain")[2]
    trained, _ = trace(build(PRUNABLE["chain"][0], seed=7), *inputs("chain", 2))
    trained = float_form(trained, inputs("chain", 2))
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
for name in sys.argv[2:]:
    module = torch.export.load(f"{sys.argv[1]}/{name}.pt2").module()
    given = torch.load(f"{sys.argv[1]}/{name}.in", weights_only=True)
    found = [module(*(x[:n] for x in given)) for n in (1, 5)]
    torch.save(found, f"{sys.argv[1]}/{name}.out")
"""


def test_a_saved_program_needs_plain_torch_only(run_python: RunCli, tmp_path: Path) -> None:
    smaller = {}
    for name in ("shuffle", "fused_heads"):
        _, form, analysis = prunable(name)
        removed = some_units(analysis.dependencies, seed=5)
        smaller[name] = remove(form, analysis, removed, inputs(name, 2)).module
        torch.export.save(to_program(smaller[name], inputs(name, 2)), tmp_path / f"{name}.pt2")
        torch.save(inputs(name, 5), tmp_path / f"{name}.in")
    done = run_python("-c", RELOAD, str(tmp_path), *smaller)
    assert done.returncode == 0, done.stderr
    for name, module in smaller.items():
        for found in torch.load(tmp_path / f"{name}.out", weights_only=True):
            with torch.no_grad():
                expected = module(*(x[: len(found)] for x in inputs(name, 5)))
            torch.testing.assert_close(found, expected)


def test_kept_names_what_the_shortened_stage_kept() -> None:
    _, form, analysis = prunable("resnet")
    smaller = remove(form, analysis, {"stem.0": [1, 3]}, inputs("resnet", 2))
    kept = smaller.kept["relu_2"]
    assert kept[1] is not None and np.array_equal(kept[1], [0, 2])
    assert (kept[0], *kept[2:]) == (None, None, None)
    assert smaller.kept["relu_4"] == (None,) * 4
