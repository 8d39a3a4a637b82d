"""A training on disk while it runs, so that a killed run goes on where it was."""

from __future__ import annotations

import hashlib
import io
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from edgekd.cache import replace_file
from edgekd.processes.group import by_first, is_first
from edgekd.progress import Progress

INTERVAL = 30.0  # seconds between two checkpoints, at least
_DIGEST = 64  # characters in front of the content


class Restorable(Protocol):
    """A part of a training: the student, its average, the position in the data."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything that training changes."""
        ...

    def load_state_dict(self, saved: dict[str, Any], /) -> object:
        """Bring it back."""
        ...


class Checkpoint:
    """The ``Keeper`` of one training, in one file.

    ``parts`` are saved and brought back, and so, in place, are ``tensors``. ``start`` says what
    the training started from: a checkpoint of another start is not used. The file holds tensors
    and plain values behind a SHA-256; nothing in it is executed. In a run of several processes the
    first one reads and writes it for all.
    """

    def __init__(
        self,
        folder: Path,
        title: str,
        start: str,
        parts: Mapping[str, Restorable],
        tensors: Mapping[str, Tensor],
        progress: Progress,
    ):
        name = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
        label = hashlib.sha256(title.encode()).hexdigest()[:8]
        self.path = folder / f"{name}-{label}.checkpoint"
        self._title, self._start, self._progress = title, start, progress
        self._parts, self._tensors = parts, tensors
        self._last = time.monotonic()

    def restore(self) -> dict[str, Any] | None:
        """Bring back parts and tensors and return the loop's state; None if there is none."""
        exists, found = by_first(lambda: (self.path.is_file(), self._read()))
        if not exists:
            return None
        if found is None or found["start"] != self._start:
            reason = "is damaged" if found is None else "started from other weights"
            self._progress.note(f"{self._title}: a checkpoint {reason}; training starts again")
            return None
        for name, part in self._parts.items():
            part.load_state_dict(found["parts"][name])
        for name, tensor in self._tensors.items():
            tensor.copy_(found["tensors"][name])
        loop: dict[str, Any] = found["loop"]
        self._progress.note(f"{self._title}: goes on where an earlier run stopped")
        return loop

    def due(self) -> bool:
        """Tell whether ``INTERVAL`` has passed since the last checkpoint."""
        return is_first() and time.monotonic() - self._last >= INTERVAL

    def save(self, loop: dict[str, Any]) -> None:
        """Replace the file; a disk that is full costs the checkpoint, not the training."""
        if not is_first():
            return
        self._last = time.monotonic()
        content = io.BytesIO()
        parts = {name: part.state_dict() for name, part in self._parts.items()}
        tensors = dict(self._tensors)
        torch.save(
            {"start": self._start, "loop": loop, "parts": parts, "tensors": tensors}, content
        )
        digest = hashlib.sha256(content.getbuffer()).hexdigest()
        try:
            replace_file(self.path, digest.encode("ascii"), content.getbuffer())
        except OSError as error:
            self._progress.note(f"{self._title}: no checkpoint could be stored ({error.strerror})")

    def _read(self) -> dict[str, Any] | None:
        """Return what the file holds, or None if it is not what was written."""
        try:
            stored = self.path.read_bytes()
        except OSError:
            return None
        digest, content = stored[:_DIGEST], stored[_DIGEST:]
        if hashlib.sha256(content).hexdigest().encode("ascii") != digest:
            return None
        found: dict[str, Any] = torch.load(
            io.BytesIO(content), map_location="cpu", weights_only=True
        )
        return found
