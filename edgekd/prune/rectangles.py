"""Units have to be whole slices of every tensor in which they lie."""

from __future__ import annotations

import numpy as np

from edgekd.prune.labels import Array, Lock, varying
from edgekd.prune.scope import Scope

SINGLE = Lock("all of it would have to go at once")


def make_rectangular(scope: Scope) -> None:
    """Tie labels until every tensor can only lose whole slices along one axis.

    Where there is a choice, the axis with the most units. What would lose all is locked.
    """
    tensors: list[Array] = list(scope.elements.values())
    for found in scope.arrays.values():
        tensors += found if isinstance(found, list) else [found]
    for labels in tensors:
        array = scope.labels.compress(labels)
        axes = varying(array)
        if len(axes) > 1:
            left = {axis: (_units_left(scope, array, axis), array.shape[axis]) for axis in axes}
            best = max(axes, key=left.__getitem__)
            scope.labels.couple(array, [axis for axis in axes if axis != best])
            array = scope.labels.compress(array)
        if array.size == 1 and scope.labels.classes(array).item() != 0:
            scope.labels.lock(array, SINGLE)


def _units_left(scope: Scope, array: Array, axis: int) -> int:
    """Count the classes that would be left if only slices along ``axis`` could go."""
    classes = scope.labels.classes(array)
    rows = np.moveaxis(classes, axis, 0).reshape(array.shape[axis], -1)
    parts: list[set[int]] = []
    for row in rows.tolist():
        merged = set(row)
        rest = []
        for part in parts:
            if part & merged:
                merged |= part
            else:
                rest.append(part)
        parts = [*rest, merged]
    return sum(0 not in part for part in parts)
