"""torch's own random numbers in a training that draws from them: the same in every run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


class Randomness:
    """The state of torch's generators, as a part of a checkpoint."""

    def __init__(self, device: torch.device):
        self._device = device

    def state_dict(self) -> dict[str, Any]:
        """Return where the generators are."""
        found = {"cpu": torch.get_rng_state()}
        if self._device.type == "cuda":
            found["cuda"] = torch.cuda.get_rng_state(self._device)
        return found

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Bring them back."""
        torch.set_rng_state(saved["cpu"])
        if self._device.type == "cuda" and "cuda" in saved:
            torch.cuda.set_rng_state(saved["cuda"], self._device)


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Start torch's generators from ``seed`` inside, and leave them outside as they were."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
