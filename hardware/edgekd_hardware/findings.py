"""What `edgekd doctor` says about one thing that it looked at."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["ok", "missing", "note"]


@dataclass(frozen=True)
class Finding:
    """``missing`` is needed and not there, or does not fit the rest; ``note`` can be lived with.

    ``advice`` says what to do, as a command wherever there is one.
    """

    subject: str
    state: State
    value: str
    advice: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)
