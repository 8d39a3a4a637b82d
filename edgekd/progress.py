"""How long work tells its caller how far it is, without knowing about terminals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Advance = Callable[[int], None]


class Progress(Protocol):
    """What the library reports to; the command line draws it, scripts may ignore it."""

    def task(self, description: str, total: int) -> AbstractContextManager[Advance]:
        """Open a task of ``total`` steps and yield a function that advances it by n steps."""
        ...

    def note(self, message: str) -> None:
        """Tell the user one line."""
        ...


class Silent:
    """A Progress that shows nothing."""

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[Advance]:  # noqa: ARG002
        """Yield a function that does nothing."""
        yield lambda _steps: None

    def note(self, message: str) -> None:
        """Drop the message."""
