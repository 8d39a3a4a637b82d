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
        self._locks: dict[int, Lock] = {}
        self._heads: set[int] = set()
        self.ties = 0

    def fresh(self, count: int) -> Array:
        """Return ``count`` labels that no tensor has yet."""
        start = len(self._parents)
        found = np.arange(start, start + count, dtype=np.int64)
        self._parents = np.concatenate([self._parents, found])
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
        return np.where(np.isin(found, list(self._locks)), 0, found)

    def tie(self, left: Array, right: Array) -> None:
        """Make one class of every pair of labels, after broadcasting."""
        a, b = (x.ravel() for x in np.broadcast_arrays(self.roots(left), self.roots(right)))
        for code in np.unique(a * len(self._parents) + b).tolist():
            self._join(*divmod(code, len(self._parents)))

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
            old = self._locks.get(root)
            self.ties += old is None
            self._locks[root] = lock if old is None else _stronger(old, lock)

    def lock_of(self, labels: Array) -> Lock | None:
        """Return why the first of ``labels`` that is locked is so."""
        for root in self.roots(labels).ravel().tolist():
            if root in self._locks:
                return self._locks[root]
        return None

    def mark_heads(self, labels: Array) -> None:
        """Say that classes are the heads of an attention."""
        self._heads.update(np.unique(self.roots(labels)).tolist())

    def is_head(self, root: int) -> bool:
        """Tell whether ``mark_heads`` was called for a class."""
        return root in self._heads

    def compress(self, labels: Array) -> Array:
        """Return ``labels`` with length 1 along every axis where the class does not change."""
        classes = self.classes(labels)
        for axis in range(labels.ndim):
            if (classes == classes.take([0], axis)).all():
                classes, labels = classes.take([0], axis), labels.take([0], axis)
        return labels

    def _join(self, a: int, b: int) -> None:
        a, b = (int(self.roots(np.array([x]))[0]) for x in (a, b))
        if a == b:
            return
        a, b = min(a, b), max(a, b)
        self._parents[b] = a
        self.ties += 1
        if b in self._heads:
            self._heads.add(a)
        lock = self._locks.pop(b, None)
        if lock is not None:
            self._locks[a] = _stronger(self._locks[a], lock) if a in self._locks else lock


def _stronger(old: Lock, new: Lock) -> Lock:
    return new if new.followed and not old.followed else old


def varying(labels: Array) -> list[int]:
    """Return the axes along which compressed labels change."""
    return [axis for axis, size in enumerate(labels.shape) if size > 1]
