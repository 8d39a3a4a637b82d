"""How labels meet where tensors are combined element by element, or reduced."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from edgekd.prune.labels import Array, Labels, Lock, varying

Operand = tuple[Array, tuple[int, ...]]  # compressed labels and the real shape
WHOLE = Lock("it is combined with every part of another tensor alike")


def combine(labels: Labels, operands: Iterable[Operand], *, eager: bool) -> Operand:
    """Return labels and shape of ``operands`` combined element by element, with broadcasting."""
    first, *rest = operands
    result = first
    for operand in rest:
        result = _pair(labels, result, operand, eager)
    return result


def _pair(labels: Labels, left: Operand, right: Operand, eager: bool) -> Operand:
    (a, a_shape), (b, b_shape) = _align(left, right)
    shape = np.broadcast_shapes(a_shape, b_shape)
    a, b = labels.compress(a), labels.compress(b)
    aligned = [x for x in range(len(shape)) if a_shape[x] == b_shape[x] > 1]
    # What one of them cannot lose along an axis, the other cannot either.
    a = _stay_whole(labels, a, b, [x for x in aligned if b.shape[x] == 1])
    b = _stay_whole(labels, b, a, [x for x in aligned if a.shape[x] == 1])
    if a.size == 1 or b.size == 1:
        return (b if a.size == 1 else a), shape
    shared = set(varying(a)) & set(varying(b))
    if not eager and shared and set(varying(a)) != set(varying(b)):
        return (a if len(varying(a)) > len(varying(b)) else b), shape
    labels.tie(a, b)
    return labels.compress(np.broadcast_arrays(a, b)[0]), shape


def _align(left: Operand, right: Operand) -> tuple[Operand, Operand]:
    ndim = max(len(left[1]), len(right[1]))
    first, second = (
        (a.reshape([1] * (ndim - len(shape)) + list(a.shape)), (1,) * (ndim - len(shape)) + shape)
        for a, shape in (left, right)
    )
    return first, second


def _stay_whole(labels: Labels, a: Array, b: Array, axes: list[int]) -> Array:
    """Couple ``a`` along axes where ``b`` does not change."""
    axes = [axis for axis in axes if a.shape[axis] > 1]
    if not axes:
        return a
    a = labels.couple(a, axes)
    if a.size == 1:
        labels.lock(a, labels.lock_of(b) or WHOLE)
    return labels.compress(a)


def reduce(labels: Labels, array: Array, axes: Iterable[int], lock: Lock) -> Array:
    """Couple ``array`` along ``axes``, whose elements are used up together.

    What is left are heads, if the labels change along other axes as well. If not, all would have
    to go at once: it is locked.
    """
    before = labels.compress(array)
    axes = [axis % array.ndim for axis in axes]
    after = labels.compress(labels.couple(before, axes))
    if after.size == 1 and before.size > 1:
        labels.lock(after, lock)
    return after
