"""What rules of ``distill-advice`` look at, what they say, and the limits that they draw.

Numbers below are limits of ours: the sources say in which direction to go, not where to start. So
are weights in the snippets where the source names none; what they leave out has the loss's default.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from edgekd.advice.capacity import CapacityRatio
from edgekd.advice.features import Match
from edgekd.advice.hints import Hints
from edgekd.advice.labels import Labels, TeacherQuality
from edgekd.advice.measured import Gain
from edgekd.advice.sources import Source
from edgekd.loss_settings import LossSettings

GAP = 2.0  # times the parameters, above which standardised logits are worth a comparison
WIDE_GAP = 10.0  # above which a smaller teacher is
FEW_CLASSES = 5
SUSPECT = 0.1  # share of labels that are likely wrong
MISCALIBRATED = 0.05  # expected calibration error
BY_HEART = 0.2  # times the share of errors on validation samples
SAME = 0.01  # relative difference of parameters and multiply-accumulates


@dataclass(frozen=True)
class Findings:
    """All that rules may look at. ``teacher`` is None where the output is no class logits."""

    capacity: CapacityRatio
    matches: tuple[Match, ...]
    hints: Hints
    labels: Labels
    teacher: TeacherQuality | None


@dataclass(frozen=True)
class Advice:
    """One recommendation.

    ``role``: ``base`` is the loss to begin with, ``add`` goes beside it, ``instead`` is to be
    compared with it, ``how`` is no loss. ``losses`` and ``keys`` are what a ``distill`` stage has
    of it, ``recipe`` is the shipped one that is built on it. ``gains`` were measured.
    """

    role: Literal["base", "add", "instead", "how"]
    what: str
    because: str
    sources: tuple[Source, ...]
    losses: tuple[LossSettings, ...] = ()
    keys: tuple[tuple[str, float | str], ...] = ()
    recipe: str | None = None
    gains: tuple[Gain, ...] = ()

    def snippet(self) -> dict[str, Any]:
        """Return the keys of a ``distill`` stage, defaults left out."""
        named = [
            {"loss": entry.loss, **entry.model_dump(mode="json", exclude_defaults=True)}
            for entry in self.losses
        ]
        return {**({"losses": named} if named else {}), **dict(self.keys)}

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "role": self.role,
            "what": self.what,
            "because": self.because,
            "sources": [asdict(source) for source in self.sources],
            "stage": self.snippet(),
            "recipe": self.recipe,
            "measured": [gain.to_dict() for gain in self.gains],
        }


def kinds(found: Findings) -> tuple[str, str] | None:
    """Return what most features of student and teacher are, None without any."""
    if not found.matches:
        return None
    own = [match.student.kind for match in found.matches]
    others = [match.peer.kind for match in found.matches]
    return max(sorted(set(own)), key=own.count), max(sorted(set(others)), key=others.count)


def words(kind: str) -> str:
    """Return the plural of a kind of features."""
    return kind if kind == "tokens" else f"{kind}s"


def percent(share: float) -> str:
    """Return a share in per cent, as text."""
    return f"{100 * share:.1f} %"
