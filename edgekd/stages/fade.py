"""Losses whose weight goes to zero while a student trains."""

from __future__ import annotations

from typing import Any


class Fade:
    """A factor that falls linearly from 1 at the first of ``steps`` to ``1 / steps`` at the last.

    Yang et al., ICCVW 2023, arXiv 2307.15880 (DWPose), first stage, where it falls by epochs. Not
    ``on``, it stays 1.
    """

    def __init__(self, steps: int, *, on: bool):
        self._steps, self._on, self._done = steps, on, 0

    def __call__(self) -> float:
        """Return the factor of the next step."""
        return 1 - self._done / self._steps if self._on else 1.0

    def after_step(self, step: int) -> None:
        """Note that ``step`` steps are done."""
        self._done = min(step, self._steps)

    def state_dict(self) -> dict[str, Any]:
        """Return how far it is."""
        return {"done": self._done}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on from there."""
        self._done = saved["done"]
