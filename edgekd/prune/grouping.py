"""From labels to groups of units, and to the layers that have to stay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np

from edgekd.graph.canonical import is_selection
from edgekd.prune.groups import Dependencies, Group, Locked, Member
from edgekd.prune.labels import Array, Lock
from edgekd.prune.scope import Layer, Role, Scope

Units: TypeAlias = Mapping[str, Array]
_Places: TypeAlias = dict[tuple[str, int], dict[int, list[int]]]  # (tensor, axis) -> class -> where
SINGLE = Lock("its outputs can only go all at once")


def find_groups(scope: Scope) -> tuple[Dependencies, Units]:
    """Return the groups of a program whose labels are complete, and the class of every unit."""
    roles = _roles(scope)
    places = _places(scope)
    alike: dict[object, list[int]] = {}
    for unit, signature in _signatures(scope, places).items():
        if any(unit in line and "produced" in roles[key] for key, line in places.items()):
            alike.setdefault(signature, []).append(unit)
    layers = [layer for layer in scope.layers.values() if not is_selection(layer.node)]
    taken: dict[str, int] = {}
    groups, units = [], {}
    for found in _in_order([sorted(u) for u in alike.values() if len(u) > 1], places):
        name = _name(found[0], layers, places)
        taken[name] = taken.get(name, 0) + 1
        if taken[name] > 1:
            name = f"{name}:{taken[name]}"
        groups.append(_group(scope, name, found, places, roles))
        units[name] = np.array(found, np.int64)
    free = {unit for found in units.values() for unit in found.tolist()}
    locked: dict[str, Locked] = {}
    for layer in layers:  # one whose outputs lie along two axes (a tied table) counts once
        lines = [
            places.get((other.tensor, other.axis), {})
            for other in layers
            if other.tensor == layer.tensor
        ]
        if not any(free & set(line) for line in lines):
            locked.setdefault(_layer_name(layer.tensor), _locked(scope, layer))
    for name, lock in _unfollowed(scope, {name for name, _ in places}).items():
        layer_name = _layer_name(name)
        locked.setdefault(layer_name, Locked(layer_name, lock.reason, lock.line, lock.followed))
    return Dependencies(tuple(groups), tuple(locked.values())), units


def _roles(scope: Scope) -> dict[tuple[str, int], dict[Role, None]]:
    roles = dict(scope.roles)
    for name, labels in scope.elements.items():
        for axis in range(labels.ndim):
            roles[name, axis] = {**roles.get((name, axis), {}), "produced": None}
    return roles


def _places(scope: Scope) -> _Places:
    """Return where every class that can go lies in the stored tensors."""
    found: _Places = {}
    for key, labels in scope.lines().items():
        for place, unit in enumerate(scope.labels.classes(labels).tolist()):
            if unit:
                found.setdefault(key, {}).setdefault(unit, []).append(place)
    return found


def _signatures(scope: Scope, places: _Places) -> dict[int, tuple[frozenset[object], ...]]:
    """Return for every class the stored tensors and the computed ones in which it lies.

    The computed ones too, so that no group can lose all of what a slice of a layer's output takes.
    """
    stored: dict[int, set[object]] = {}
    for key, found in places.items():
        for unit, where in found.items():
            stored.setdefault(unit, set()).add((key, len(where)))
    computed: dict[int, set[object]] = {unit: set() for unit in stored}
    for name, arrays in scope.arrays.items():
        for part, array in enumerate(arrays if isinstance(arrays, list) else [arrays]):
            for unit in np.unique(scope.labels.classes(array)).tolist():
                if unit in computed:
                    computed[unit].add((name, part))
    return {unit: (frozenset(stored[unit]), frozenset(computed[unit])) for unit in stored}


def _in_order(found: list[list[int]], places: _Places) -> list[list[int]]:
    """Sort groups by the first stored tensor that they lie in."""
    first: dict[int, int] = {}
    for i, line in enumerate(places.values()):
        for unit in line:
            first.setdefault(unit, i)
    return sorted(found, key=lambda units: first[units[0]])


def _name(unit: int, layers: list[Layer], places: _Places) -> str:
    for layer in layers:
        if unit in places.get((layer.tensor, layer.axis), {}):
            return _layer_name(layer.tensor)
    return next(tensor for (tensor, _), found in places.items() if unit in found)


def _layer_name(tensor: str) -> str:
    path, _, leaf = tensor.rpartition(".")
    return path or leaf


def _group(
    scope: Scope,
    name: str,
    units: list[int],
    places: _Places,
    roles: dict[tuple[str, int], dict[Role, None]],
) -> Group:
    members: dict[Role, list[Member]] = {"produced": [], "consumed": []}
    for key, found in places.items():
        if units[0] in found:
            member = Member(*key, tuple(tuple(found[unit]) for unit in units))
            for role in roles[key]:
                members[role].append(member)
    heads = scope.labels.is_head(units[0])
    counted = (members["consumed"] if heads else []) or members["produced"]
    rows = len(counted[0].indices[0])
    produced, consumed = tuple(members["produced"]), tuple(members["consumed"])
    return Group(name, "heads" if heads else "channels", len(units), rows, produced, consumed)


def _locked(scope: Scope, layer: Layer) -> Locked:
    lock = scope.labels.lock_of(scope.axes[layer.tensor, layer.axis]) or SINGLE
    return Locked(_layer_name(layer.tensor), lock.reason, lock.line, lock.followed)


def _unfollowed(scope: Scope, free: set[str]) -> dict[str, Lock]:
    """Return the weights outside known layers where the analysis gave up, with the reason."""
    known = {layer.tensor for layer in scope.layers.values()} | free
    found: dict[str, Lock] = {}
    stored = [*scope.elements.items(), *((name, line) for (name, _), line in scope.axes.items())]
    for name, labels in stored:
        lock = scope.labels.lock_of(labels)
        if name not in known and lock is not None and not lock.followed:
            found.setdefault(name, lock)
    return found
