"""Progress on stderr: bars with the time left on a terminal, plain lines everywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from edgekd.progress import Advance, Progress

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

PLAIN_INTERVAL = 10.0  # seconds between two plain lines of one task


def open_progress() -> Progress:
    """Return the Progress that suits stderr."""
    return Bars() if sys.stderr.isatty() else Lines()


class Bars:
    """Rich progress bars; Rich itself respects NO_COLOR. Tasks may be nested."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)
        self._bars: RichProgress | None = None
        self._open = 0

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[Advance]:
        """Show a bar for ``total`` steps and yield what advances it."""
        from rich.markup import escape

        if self._bars is None:
            self._bars = self._start()
        bars, self._open = self._bars, self._open + 1
        task = bars.add_task(escape(description), total=total)
        try:
            yield lambda steps: bars.advance(task, steps)
        finally:
            bars.stop_task(task)
            self._open -= 1
            if self._open == 0:
                bars.stop()
                self._bars = None

    def note(self, message: str) -> None:
        """Print one line above the bars."""
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    def _start(self) -> RichProgress:
        from rich import progress

        bars = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeRemainingColumn(elapsed_when_finished=True),
            console=self._console,
        )
        bars.start()
        return bars


class Lines:
    """One line when a task starts and ends, and every ten seconds between with the time left."""

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[Advance]:
        """Report a task of ``total`` steps and yield what advances it."""
        started = last = time.monotonic()
        done = 0

        def advance(steps: int) -> None:
            nonlocal done, last
            done += steps
            now = time.monotonic()
            if done and done < total and now - last >= PLAIN_INTERVAL:
                last = now
                left = (now - started) / done * (total - done)
                self.note(f"{description}: {done}/{total}, {left:.0f} s left")

        self.note(f"{description} ...")
        yield advance
        self.note(f"{description}: done in {time.monotonic() - started:.1f} s")

    def note(self, message: str) -> None:
        """Print one line."""
        typer.echo(message, err=True)
