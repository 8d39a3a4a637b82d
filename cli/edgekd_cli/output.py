"""Results on stdout: tables and lines for people, JSON for programs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import typer

PIPE_WIDTH = 120  # columns where stdout is no terminal and COLUMNS does not say


def show_json(data: Any) -> None:
    """Print plain data as JSON."""
    typer.echo(json.dumps(data, indent=2, default=str))


def check_writable(path: Path) -> None:
    """Raise MeasurementError if ``path`` can be seen not to be writable, before the work."""
    from edgekd.errors import MeasurementError

    folder = next(parent for parent in path.resolve().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise MeasurementError(f"{path} cannot be written: {folder} is no folder that you may use")


def write_json(path: Path, data: Any) -> None:
    """Write plain data as JSON, all of it or nothing; raises MeasurementError."""
    write_text(path, json.dumps(data, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file, all of it or nothing; raises MeasurementError."""
    from edgekd.cache import replace_file
    from edgekd.errors import MeasurementError

    try:
        replace_file(path, text.encode("utf-8"))
    except OSError as error:
        raise MeasurementError(f"{path} cannot be written: {error.strerror}") from error


def show_line(text: str) -> None:
    """Print one line."""
    typer.echo(text)


def show_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None
) -> None:
    """Print rows under their columns; a column whose name starts with ``>`` is right-aligned."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        side: Literal["left", "right"] = "right" if column.startswith(">") else "left"
        # fold: a long path or address is broken over lines, never cut off
        table.add_column(column.lstrip(">"), justify=side, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: square brackets are no markup
    fixed = None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPE_WIDTH
    Console(width=fixed, highlight=False).print(table)


def size(n_bytes: float) -> str:
    """Return a number of bytes in the unit that suits it (1 kB is 1000 bytes)."""
    for unit in ("B", "kB", "MB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} GB"


def percent(fraction: float | None) -> str:
    """Return a fraction in percent with two digits, a dash when there is none."""
    return "-" if fraction is None else f"{100 * fraction:.2f} %"
