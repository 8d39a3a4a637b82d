"""Which shapes an engine takes, and how a batch that is larger than its maximum is split."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from edgekd.errors import DataError
from edgekd.runtime.engine_manifest import ShapeRange


def split(count: int, smallest: int, largest: int) -> list[slice]:
    """Cut ``count`` rows into as few parts as can be, each of ``smallest`` to ``largest`` rows.

    Parts differ by one row at most, so that the last one is not a small rest. Raises DataError
    where no such parts exist: fewer rows than the smallest, or between two multiples.
    """
    parts = -(-count // largest)
    if count < 1 or parts * smallest > count:
        rows = f"{smallest} to {largest}" if smallest < largest else f"{smallest}"
        raise DataError(
            f"a batch of {count} cannot be cut into parts of {rows} rows, which the engine takes; "
            "add rows, or build an engine for other batches"
        )
    size, longer = divmod(count, parts)
    starts = [i * size + min(i, longer) for i in range(parts + 1)]
    return [slice(starts[i], starts[i + 1]) for i in range(parts)]


@dataclass(frozen=True)
class Batching:
    """What an engine takes: ``shapes`` by input; ``batched`` are those with the batch first."""

    shapes: Mapping[str, ShapeRange]
    batched: Collection[str]

    def parts(self, given: Mapping[str, tuple[int, ...]]) -> list[slice | None]:
        """Return the rows of each run for inputs of the shapes ``given``.

        A slice is of the first axis of the ``batched`` inputs; None stands for one run with
        everything as it is. Raises DataError where a shape does not fit the engine.
        """
        counts = {}
        smallest, largest = 1, 0
        for name, shape in given.items():
            limits = self.shapes[name]
            first = 1 if name in self.batched else 0
            self._check(name, shape, limits, first)
            if first:
                counts[name] = shape[0]
                smallest = max(smallest, limits.smallest[0])
                largest = min(largest or limits.largest[0], limits.largest[0])
        if not counts:
            return [None]
        if len(set(counts.values())) > 1:
            found = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise DataError(f"the inputs must have the same number of rows, not {found}")
        (count,) = set(counts.values())
        if smallest <= count <= largest:
            return [None]
        return [*split(count, smallest, largest)]

    def _check(self, name: str, shape: tuple[int, ...], limits: ShapeRange, first: int) -> None:
        if len(shape) != len(limits.smallest):
            raise DataError(
                f"input {name!r} must have {len(limits.smallest)} axes, not {len(shape)}"
            )
        for axis in range(first, len(shape)):
            low, high = limits.smallest[axis], limits.largest[axis]
            if not low <= shape[axis] <= high:
                size = f"{low} to {high}" if low < high else f"{low}"
                raise DataError(
                    f"axis {axis} of input {name!r} must be {size} in this engine, not "
                    f"{shape[axis]}; build one for other shapes, or pad the input"
                )
