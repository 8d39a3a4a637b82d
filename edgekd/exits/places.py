"""Where exits go: cuts of a program, named by the module that ends there, at about equal cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import fx

from edgekd.graph.cuts import block_ends, cuts, is_finish
from edgekd.graph.program import output_nodes
from edgekd.graph.taps import module_outputs

# LGViT puts its exits behind layers 4 to 11 of 12 (arXiv 2308.00255, section 4.1): shallower ones
# are rarely sure, and behind a deeper one there is nothing left to save.
FIRST, LAST = 1 / 3, 11 / 12


@dataclass(frozen=True)
class Place:
    """A cut: the node's name, the module that ends there, and the share of the cost up to it."""

    node: str
    after: str
    share: float


def find_places(
    module: fx.GraphModule, costs: Mapping[str, float], at: Sequence[str], candidates: int
) -> list[Place]:
    """Return the places for exits, by depth.

    ``costs`` has the cost of each layer, by node name. ``at`` names modules (``*`` for any name
    between two dots); without it, ``candidates`` ends of blocks are taken, spaced evenly by cost.
    Raises ValueError with the pattern and the list of names to choose from when a module is not
    there, or more than one tensor is needed behind it.
    """
    shares = _shares(module, costs)
    named = _named_cuts(module)
    if at:
        chosen: dict[str, Place] = {}
        for pattern in at:
            fitting = [name for name in named if _fits(name, pattern)]
            if not fitting:
                raise ValueError(pattern, list(named))
            for name in fitting:
                node = named[name]
                chosen[node.name] = Place(node.name, name, shares[node])
        return sorted(chosen.values(), key=lambda place: place.share)
    names = {node: name for name, node in reversed(named.items())}
    ends = [node for node in block_ends(module) if 0 < shares[node] < 0.95]
    ends = [node for node in ends if node in names] or ends
    found: list[fx.Node] = []
    for index in range(candidates):
        wanted = FIRST + (LAST - FIRST) * (index / (candidates - 1) if candidates > 1 else 0.5)
        left = [node for node in ends if node not in found]
        if left:
            found.append(min(left, key=lambda node: abs(shares[node] - wanted)))
    places = [Place(node.name, names.get(node, node.name), shares[node]) for node in found]
    return sorted(places, key=lambda place: place.share)


def _shares(module: fx.GraphModule, costs: Mapping[str, float]) -> dict[fx.Node, float]:
    """Return the share of all layers' cost up to and with each node, in the program's order."""
    total, so_far = sum(costs.values()) or 1.0, 0.0
    shares = {}
    for node in module.graph.nodes:
        so_far += costs.get(node.name, 0.0)
        shares[node] = so_far / total
    return shares


def _named_cuts(module: fx.GraphModule) -> dict[str, fx.Node]:
    """Return the modules whose last tensor is a cut, outer ones first, with the cut's last node.

    That is behind what belongs to the tensor: its activation, and the steps that quantize it.
    """
    usable, outputs = set(cuts(module)), set(output_nodes(module))
    found: dict[str, fx.Node] = {}
    for name, node in module_outputs(module).items():
        end = node
        while len(end.users) == 1 and is_finish(end, next(iter(end.users))):
            end = next(iter(end.users))
        if end in usable and end not in outputs:
            found[name] = end
    return found


def _fits(path: str, pattern: str) -> bool:
    parts, wanted = path.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))
