"""Build on a board over SSH: what the building process needs is looked for before it is copied."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from edgekd.bench.place import Place
from edgekd.progress import Progress
from edgekd_hardware.board import Board
from edgekd_hardware.ssh import Connection

T = TypeVar("T")
BINDINGS = ("tensorrt", "tensorrt_rtx")


def build_on(
    connection: Connection,
    work: Callable[[Place], T],
    *,
    binding: str | None,
    progress: Progress,
) -> T:
    """Open the connection, do ``work`` on the board and return its result.

    ``binding`` is the module of TensorRT that has to be there, None for any. Raises
    MeasurementError when there is no connection or something is missing on the board.
    """
    try:
        with connection:
            board = Board(connection)
            wanted = BINDINGS if binding is None else (binding,)
            found = [name for name in wanted if name not in board.missing(wanted)]
            board.require([*found, *(() if found else wanted[:1])])
            return work(board)
    finally:
        if connection.left:
            progress.note(f"could not be removed: {connection.left}")
