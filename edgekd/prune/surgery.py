"""Taking units out of a program, for good or by zeroing what reads them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx, nn

from edgekd.errors import StageError
from edgekd.graph.program import clone, refresh
from edgekd.graph.tensors import clean, constant
from edgekd.prune.analysis import Analysis
from edgekd.prune.groups import Dependencies, Removed
from edgekd.prune.labels import Array
from edgekd.prune.resize import Kept, Resizer, cut


@dataclass(frozen=True)
class Smaller:
    """A program without some of its units, and which places of the original's tensors it kept.

    ``kept`` has computed tensors by their node's name in the original; per axis the places that
    stayed, or None where all did. ``names`` maps those names to the ones in ``module``.
    """

    module: fx.GraphModule
    kept: dict[str, Kept]
    names: dict[str, str]


def remove(
    module: fx.GraphModule, analysis: Analysis, removed: Removed, example: tuple[Tensor, ...]
) -> Smaller:
    """Return ``module``, the program that was analysed or a copy with other values, made smaller.

    Raises StageError for a group or unit that does not exist, and for a group that would lose all.
    """
    check(analysis.dependencies, removed)
    gone = [analysis.units[name][list(places)] for name, places in removed.items() if places]
    result = clone(module)
    resizer = Resizer(result, analysis.scope, np.concatenate([np.empty(0, np.int64), *gone]))
    for node in list(result.graph.nodes):
        if node.op == "call_function":
            resizer.resize(node)
    _cut_stored(result, analysis, resizer)
    refreshed = refresh(result, example)
    names = renamed(result, refreshed)
    return Smaller(refreshed, _kept(module, names, resizer), names)


def mask_consumers(
    module: fx.GraphModule, dependencies: Dependencies, removed: Removed
) -> fx.GraphModule:
    """Return a copy of ``module`` that reads zeros where units were ``removed``.

    It has the shapes of the original, and the outputs of the smaller program.
    """
    check(dependencies, removed)
    result = clone(module)
    groups = {group.name: group for group in dependencies.groups}
    for name, places in removed.items():
        for member in groups[name].consumed:
            indices = [i for unit in places for i in member.indices[unit]]
            path, _, leaf = member.tensor.rpartition(".")
            tensor = getattr(result.get_submodule(path), leaf)
            gone = torch.tensor(indices, dtype=torch.long, device=tensor.device)
            with torch.no_grad():
                tensor.index_fill_(member.axis, gone, 0)
    return result


def check(dependencies: Dependencies, removed: Removed) -> None:
    """Raise StageError if ``removed`` names what does not exist or empties a group."""
    sizes = {group.name: group.size for group in dependencies.groups}
    for name, places in removed.items():
        if name not in sizes:
            raise StageError(f"there is no group {name!r} to prune; analyse the model again")
        if any(not 0 <= place < sizes[name] for place in places):
            raise StageError(
                f"group {name!r} has units 0 to {sizes[name] - 1}, not all of {places}"
            )
        if len(set(places)) == sizes[name]:
            raise StageError(f"group {name!r} would lose all of its {sizes[name]} units; keep one")


def _cut_stored(module: fx.GraphModule, analysis: Analysis, resizer: Resizer) -> None:
    lines: dict[str, dict[int, Array]] = {}
    for (name, axis), labels in analysis.scope.lines().items():
        lines.setdefault(name, {})[axis] = labels
    names: dict[Tensor, list[str]] = {}  # by identity: one tensor may have several names
    for node in module.graph.nodes:
        if (tensor := constant(module, node)) is not None:
            names.setdefault(tensor, []).append(str(node.target))
    for tensor, shared in names.items():
        kept: list[Array | None] = [None] * tensor.ndim
        for axis, line in lines.get(shared[0], {}).items():
            (kept[axis],) = resizer.kept_of(line, line.shape)
        new = _replacement(tensor, tuple(kept))
        for name in shared:
            path, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(path), leaf, new)
    clean(module)


def _replacement(tensor: Tensor, kept: Kept) -> Tensor:
    new = cut(tensor.detach(), kept).clone()
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(new, requires_grad=tensor.requires_grad)
    return new


def renamed(before: fx.GraphModule, after: fx.GraphModule) -> dict[str, str]:
    """Map the node names of a program to those of the same program exported again.

    Export keeps operations and their order. Where it has added or dropped some, only the names
    that are in both count.
    """
    old, new = ([n.name for n in m.graph.nodes if n.op != "get_attr"] for m in (before, after))
    if len(old) == len(new):
        return dict(zip(old, new, strict=True))
    return {name: name for name in old if name in set(new)}


def _kept(module: fx.GraphModule, names: dict[str, str], resizer: Resizer) -> dict[str, Kept]:
    """Return what stayed of the tensors of ``module`` that the smaller program still computes."""
    found = {}
    for node in module.graph.nodes:
        if node.name not in names or node.op == "output" or not resizer.scope.is_tensor(node):
            continue
        if node.name not in resizer.scope.arrays:
            continue
        kept, shape = resizer.kept(node), node.meta["val"].shape
        # Where an axis joins units with the batch, the places depend on the batch.
        if all(p is None or isinstance(size, int) for p, size in zip(kept, shape, strict=True)):
            found[node.name] = kept
    return found
