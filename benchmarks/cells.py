"""Results of a long benchmark, kept one after the other: the same command goes on from there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

Cell = dict[str, float]


class Cells:
    """Finished cells by name, kept in a file where one is given."""

    def __init__(self, path: Path | None):
        self.path = path
        self.known: dict[str, Cell] = {}
        if path is not None and path.exists():
            self.known = json.loads(path.read_text("utf-8"))

    def get(self, name: str, make: Callable[[], dict[str, Cell]]) -> Cell:
        """Return the cell; where it is missing, ``make`` gives it, and others with it."""
        if name not in self.known:
            self.put(make())
        return self.known[name]

    def put(self, cells: dict[str, Cell]) -> None:
        """Add cells, in place of those of the same name."""
        self.known |= cells
        if self.path is not None:
            partial = self.path.with_suffix(".partial")
            partial.write_text(json.dumps(self.known, indent=1), "utf-8")
            partial.replace(self.path)
