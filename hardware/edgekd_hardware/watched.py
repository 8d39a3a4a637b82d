"""See that this machine was not slowed down while it was measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from edgekd.errors import NoVerdictError
from edgekd_hardware import throttling
from edgekd_hardware.board_state import read_state


@contextmanager
def unthrottled(*, allow: bool) -> Iterator[None]:
    """Compare this machine's state before and after the block.

    Raises NoVerdictError behind it when the machine was slowed down, unless ``allow``.
    """
    before = read_state()
    yield
    after = read_state()
    slowed = throttling.reasons(before, [], after)
    if slowed and not allow:
        raise NoVerdictError(throttling.refusal("this machine", slowed, [before, after]))
