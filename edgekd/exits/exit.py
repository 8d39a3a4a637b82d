"""What is known of an early exit wherever it goes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Exit:
    """An exit: its output's name, the module that it is behind, and the kind of its head.

    ``share`` is the part of the model's cost that lies before it.
    """

    name: str
    after: str
    share: float
    head: str
