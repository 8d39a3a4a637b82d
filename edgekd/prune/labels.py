"""Labels: which elements of tensors have to stay or go together.

Every tensor gets an array of labels with as many axes as the tensor; an axis of length 1 says that
the labels are the same all along it. Labels that are tied form one class, and a class is what can
be removed at once. A locked class has to stay.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Lock:
    """Why a class has to stay; see ``groups.Locked``."""

    reason: str
    line: str | None = None
    followed: bool = True


class Labels:
    """Disjoint classes of labels (Tarjan, Journal of the ACM 22(2), 1975), some of them locked.

    ``ties`` counts how often two classes became one or a class was locked.
    """

    def __init__(self) -> None:
        self._parents = np.zeros(1, np.int64)
        self._locked = np.ones(1, np.bool_)
        self._heads = np.zeros(1, np.bool_)
        self._locks: dict[int, Lock] = {}
        self.ties = 0

    def fresh(self, count: int) -> Array:
        """Return ``count`` labels that no tensor has yet."""
        start = len(self._parents)
        found = np.arange(start, start + count, dtype=np.int64)
        self._parents = np.concatenate([self._parents, found])
        self._locked = np.concatenate([self._locked, np.zeros(count, np.bool_)])
        self._heads = np.concatenate([self._heads, np.zeros(count, np.bool_)])
        return found

    def roots(self, labels: Array) -> Array:
        """Return the class of every label."""
        found = self._parents[labels]
        while not np.array_equal(found, above := self._parents[found]):
            found = above
        return np.asarray(found, np.int64)

    def classes(self, labels: Array) -> Array:
        """Return the class of every label, 0 for all that are locked."""
        found = self.roots(labels)
        return np.where(self._locked[found], 0, found)

    def tie(self, left: Array, right: Array) -> None:
        """Make one class of every pair of labels, after broadcasting."""
        a, b = (x.ravel() for x in np.broadcast_arrays(self.roots(left), self.roots(right)))
        a, b = a[a != b], b[a != b]
        before = np.unique(np.concatenate([a, b]))
        while len(a):
            np.minimum.at(self._parents, np.maximum(a, b), np.minimum(a, b))
            a, b = self.roots(a), self.roots(b)
            a, b = a[a != b], b[a != b]
            self.ties += 1
        after = self.roots(before)
        self._heads[after[self._heads[before]]] = True
        for old, new in zip(before.tolist(), after.tolist(), strict=True):
            if old != new and self._locked[old]:
                self._lock(new, self._locks.pop(old))

    def couple(self, labels: Array, axes: Iterable[int]) -> Array:
        """Tie all labels along ``axes``; return the labels with length 1 there."""
        for axis in axes:
            first = labels.take([0], axis)
            if labels.shape[axis] > 1:
                self.tie(labels, first)
            labels = first
        return labels

    def lock(self, labels: Array, lock: Lock) -> None:
        """Say that these labels have to stay. The first reason counts, a needed one before all."""
        for root in np.unique(self.roots(labels)).tolist():
            self._lock(root, lock)

    def lock_of(self, labels: Array) -> Lock | None:
        """Return why the first of ``labels`` that is locked is so."""
        roots = self.roots(labels).ravel()
        locked = roots[self._locked[roots]]
        return self._locks[int(locked[0])] if len(locked) else None

    def mark_heads(self, labels: Array) -> None:
        """Say that classes are the heads of an attention."""
        self._heads[self.roots(labels)] = True

    def is_head(self, label: int) -> bool:
        """Tell whether ``mark_heads`` was called for a label of the same class."""
        return bool(self._heads[self.roots(np.array([label]))[0]])

    def compress(self, labels: Array) -> Array:
        """Return ``labels`` with length 1 along every axis where the class does not change."""
        classes = self.classes(labels)
        for axis in range(labels.ndim):
            if (classes == classes.take([0], axis)).all():
                classes, labels = classes.take([0], axis), labels.take([0], axis)
        return labels

    def _lock(self, root: int, lock: Lock) -> None:
        old = self._locks.get(root)
        self.ties += old is None
        self._locked[root] = True
        if old is None or (lock.followed and not old.followed):
            self._locks[root] = lock


def varying(labels: Array) -> list[int]:
    """Return the axes along which compressed labels change."""
    return [axis for axis, size in enumerate(labels.shape) if size > 1]
