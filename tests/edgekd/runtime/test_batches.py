"""How a batch is split, and which shapes an engine takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.errors import DataError
from edgekd.runtime.batches import Batching, split
from edgekd.runtime.engine_manifest import ShapeRange

LIMITS = st.integers(1, 40).flatmap(lambda low: st.tuples(st.just(low), st.integers(low, 60)))


@given(count=st.integers(0, 500), limits=LIMITS)
def test_parts_are_all_rows_in_order_or_there_are_none(count: int, limits: tuple[int, int]) -> None:
    low, high = limits
    possible = any(k * low <= count <= k * high for k in range(1, count + 1))
    if not possible:
        with pytest.raises(DataError, match=f"a batch of {count} cannot be cut"):
            split(count, low, high)
        return
    parts = split(count, low, high)
    assert [row for part in parts for row in range(part.start, part.stop)] == list(range(count))
    sizes = [part.stop - part.start for part in parts]
    assert all(low <= size <= high for size in sizes)
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)  # buffers need not grow under a running call
    assert len(parts) == -(-count // high)  # as few as can be


IMAGES = Batching({"x": ShapeRange((2, 3, 8, 8), (4, 3, 8, 8), (4, 3, 16, 8))}, {"x"})
TOKENS = Batching(
    {
        "ids": ShapeRange((1, 16), (8, 64), (32, 128)),
        "mask": ShapeRange((1, 16), (8, 64), (24, 128)),
        "scale": ShapeRange((), (), ()),
    },
    {"ids", "mask"},
)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (2, [None]),
        (4, [None]),
        (5, [slice(0, 3), slice(3, 5)]),
        (10, [slice(0, 4), slice(4, 7), slice(7, 10)]),
    ],
)
def test_a_batch_that_fits_is_one_run(rows: int, expected: list[slice | None]) -> None:
    assert IMAGES.parts({"x": (rows, 3, 8, 8)}) == expected


def test_the_tightest_input_decides() -> None:
    def parts(rows: int) -> list[slice | None]:
        return TOKENS.parts({"ids": (rows, 32), "mask": (rows, 32), "scale": ()})

    assert parts(24) == [None]
    assert parts(25) == [slice(0, 13), slice(13, 25)]


def test_an_engine_without_a_batch_runs_once() -> None:
    fixed = Batching({"x": ShapeRange((3,), (3,), (3,))}, ())
    assert fixed.parts({"x": (3,)}) == [None]
    with pytest.raises(DataError, match="axis 0 of input 'x' must be 3 in this engine, not 4"):
        fixed.parts({"x": (4,)})


@pytest.mark.parametrize(
    ("batching", "shapes", "message"),
    [
        (IMAGES, {"x": (1, 3, 8, 8)}, "a batch of 1 cannot be cut into parts of 2 to 4 rows"),
        (IMAGES, {"x": (0, 3, 8, 8)}, "a batch of 0 cannot"),
        (IMAGES, {"x": (4, 3, 17, 8)}, "axis 2 of input 'x' must be 8 to 16 in this engine, not 1"),
        (IMAGES, {"x": (4, 3, 8)}, "input 'x' must have 4 axes, not 3"),
        (
            TOKENS,
            {"ids": (2, 32), "mask": (3, 32), "scale": ()},
            "same number of rows, not ids 2, mask 3",
        ),
    ],
)
def test_what_the_engine_does_not_take_is_explained(
    batching: Batching, shapes: dict[str, tuple[int, ...]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        batching.parts(shapes)
