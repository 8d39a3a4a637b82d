"""What losses gained in edgekd's own benchmark: the figures of docs/benchmarks.md alone."""

from __future__ import annotations

import csv
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any, Literal

PAGE = "benchmarks.md"  # in docs/
ERRORS = 2.0  # standard errors above plain KL, from which a gain counts


@dataclass(frozen=True)
class Gain:
    """Points of accuracy over plain KL alone, mean and standard error over seeds.

    ``loss`` is its name in a recipe, ``with_kl`` beside plain KL or alone (with labels, if the last
    layer learns nothing from it). ``student`` is what the student that was trained computes. Losses
    that did worse have entries too.
    """

    loss: str
    student: Literal["map", "tokens"]
    with_kl: bool
    points: float
    error: float

    @property
    def counts(self) -> bool:
        """Tell whether it is better than plain KL beyond chance."""
        return self.points > ERRORS * self.error

    def __str__(self) -> str:
        beside = " with kl" if self.with_kl else ""
        return f"{self.loss}{beside} {self.points:+.2f} points (+- {self.error:.2f})"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


def _read() -> tuple[Gain, ...]:
    """Return an entry for each row of one loss, alone or beside plain KL, in the page's tables."""
    text = files(__package__).joinpath("measured.csv").read_text("utf-8")
    return tuple(
        Gain(loss, _student(student), beside == "kl", float(points), float(error))
        for loss, student, beside, points, error in list(csv.reader(text.splitlines()))[1:]
    )


def _student(kind: str) -> Literal["map", "tokens"]:
    return "map" if kind == "map" else "tokens"


GAINS = _read()


def gains_of(losses: list[str], student: str | None) -> tuple[Gain, ...]:
    """Return what was measured of any of ``losses`` with a student of this kind."""
    return tuple(gain for gain in GAINS if gain.loss in losses and gain.student == student)
