"""What losses gained in edgekd's own benchmark: the figures of docs/benchmarks.md alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
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


# One entry for each row of one loss in the tables.
GAINS: tuple[Gain, ...] = (
    Gain("hard-class", "map", False, -0.08, 0.99),
    Gain("hard-class", "map", True, 0.36, 1.29),
    Gain("mse", "map", False, -14.77, 1.19),
    Gain("mse", "map", True, -1.79, 1.24),
    Gain("cosine", "map", False, -9.45, 0.84),
    Gain("cosine", "map", True, 0.63, 1.55),
    Gain("smooth-l1", "map", False, -20.71, 1.37),
    Gain("smooth-l1", "map", True, -2.71, 1.03),
    Gain("standardized-kl", "map", False, -6.27, 1.23),
    Gain("standardized-kl", "map", True, -1.51, 0.81),
    Gain("top-k-kl", "map", False, -2.0, 0.98),
    Gain("top-k-kl", "map", True, -3.73, 1.46),
    Gain("plackett-luce", "map", False, 1.97, 1.13),
    Gain("plackett-luce", "map", True, -2.12, 1.53),
    Gain("sinkhorn", "map", False, -34.55, 2.3),
    Gain("sinkhorn", "map", True, -2.17, 0.95),
    Gain("taid", "map", False, 1.0, 0.81),
    Gain("taid", "map", True, -0.52, 0.94),
    Gain("balanced-kl", "map", False, -5.67, 0.82),
    Gain("balanced-kl", "map", True, -4.81, 1.45),
    Gain("ssld", "map", False, -3.12, 0.88),
    Gain("ssld", "map", True, -0.76, 0.76),
    Gain("repeated", "map", False, -18.68, 1.05),
    Gain("repeated", "map", True, -1.33, 1.18),
    Gain("margin-preserving", "map", False, -13.15, 1.27),
    Gain("margin-preserving", "map", True, -4.35, 1.07),
    Gain("label-trust", "map", False, 0.4, 1.05),
    Gain("label-trust", "map", True, -2.03, 0.89),
    Gain("dual-head", "map", False, -1.59, 0.76),
    Gain("dual-head", "map", True, 0.4, 1.35),
    Gain("hint", "map", False, 0.75, 1.71),
    Gain("hint", "map", True, -0.91, 2.7),
    Gain("squarehead", "map", False, -7.88, 0.89),
    Gain("squarehead", "map", True, -2.41, 1.17),
    Gain("attention-transfer", "map", False, -3.55, 0.88),
    Gain("attention-transfer", "map", True, 5.97, 0.79),
    Gain("relational", "map", False, -6.0, 0.8),
    Gain("relational", "map", True, 2.39, 2.05),
    Gain("mutual-information", "map", False, -4.25, 1.25),
    Gain("mutual-information", "map", True, 0.61, 1.0),
    Gain("scale-kd", "map", False, -7.25, 0.99),
    Gain("scale-kd", "map", True, -2.43, 1.24),
    Gain("one-for-all", "map", False, 0.36, 0.86),
    Gain("one-for-all", "map", True, -1.68, 0.89),
    Gain("token-graph", "map", False, -1.79, 0.81),
    Gain("token-graph", "map", True, 1.63, 1.19),
    Gain("channel-wise", "map", False, 4.83, 1.44),
    Gain("channel-wise", "map", True, 10.17, 1.5),
    Gain("label-augmentation", "map", False, -9.25, 0.94),
    Gain("label-augmentation", "map", True, -2.92, 0.84),
    Gain("layered", "map", False, -18.57, 2.43),
    Gain("layered", "map", True, -11.32, 0.94),
    Gain("hierarchical", "map", False, -7.43, 0.87),
    Gain("hierarchical", "map", True, -3.76, 0.95),
    Gain("masked-autoencoder", "map", False, -11.19, 1.06),
    Gain("masked-autoencoder", "map", True, -1.36, 0.92),
    Gain("generic", "map", False, -11.85, 1.53),
    Gain("generic", "map", True, -0.44, 0.97),
    Gain("subclasses", "map", False, -6.48, 1.86),
    Gain("subclasses", "map", True, -1.19, 1.07),
    Gain("first", "map", False, -1.87, 1.18),
    Gain("first", "map", True, -2.6, 0.8),
    Gain("ferkd", "map", False, 2.15, 0.75),
    Gain("ferkd", "map", True, -3.12, 1.26),
    Gain("context", "map", False, -7.21, 0.85),
    Gain("context", "map", True, -2.47, 1.42),
    Gain("hard-class", "tokens", False, 2.01, 0.68),
    Gain("hard-class", "tokens", True, 1.25, 0.44),
    Gain("mse", "tokens", False, -1.88, 0.44),
    Gain("mse", "tokens", True, 0.27, 0.31),
    Gain("cosine", "tokens", False, -1.75, 0.75),
    Gain("cosine", "tokens", True, -0.03, 0.46),
    Gain("smooth-l1", "tokens", False, -2.61, 0.47),
    Gain("smooth-l1", "tokens", True, 0.21, 0.32),
    Gain("standardized-kl", "tokens", False, 0.96, 0.36),
    Gain("standardized-kl", "tokens", True, 0.59, 0.25),
    Gain("top-k-kl", "tokens", False, -0.19, 0.28),
    Gain("top-k-kl", "tokens", True, 0.28, 0.24),
    Gain("plackett-luce", "tokens", False, 1.6, 0.65),
    Gain("plackett-luce", "tokens", True, 1.21, 0.43),
    Gain("sinkhorn", "tokens", False, -16.39, 0.55),
    Gain("sinkhorn", "tokens", True, 0.07, 0.2),
    Gain("taid", "tokens", False, 1.51, 0.74),
    Gain("taid", "tokens", True, 1.03, 0.4),
    Gain("balanced-kl", "tokens", False, -0.97, 0.91),
    Gain("balanced-kl", "tokens", True, -0.69, 1.05),
    Gain("ssld", "tokens", False, -1.07, 0.97),
    Gain("ssld", "tokens", True, -0.61, 0.4),
    Gain("repeated", "tokens", False, 1.21, 0.5),
    Gain("repeated", "tokens", True, 0.28, 0.2),
    Gain("margin-preserving", "tokens", False, -0.21, 0.48),
    Gain("margin-preserving", "tokens", True, 1.09, 0.71),
    Gain("label-trust", "tokens", False, 1.71, 0.47),
    Gain("label-trust", "tokens", True, 1.19, 0.42),
    Gain("dual-head", "tokens", False, 1.17, 1.33),
    Gain("dual-head", "tokens", True, 0.48, 0.51),
    Gain("hint", "tokens", False, -0.71, 0.76),
    Gain("hint", "tokens", True, -0.16, 0.89),
    Gain("squarehead", "tokens", False, -0.32, 0.63),
    Gain("squarehead", "tokens", True, -0.17, 0.46),
    Gain("attention-transfer", "tokens", False, -2.16, 1.29),
    Gain("attention-transfer", "tokens", True, 0.47, 0.36),
    Gain("relational", "tokens", False, 1.87, 0.41),
    Gain("relational", "tokens", True, 3.33, 0.68),
    Gain("mutual-information", "tokens", False, -0.19, 0.84),
    Gain("mutual-information", "tokens", True, 0.19, 0.17),
    Gain("scale-kd", "tokens", False, -0.33, 0.72),
    Gain("scale-kd", "tokens", True, -0.15, 0.38),
    Gain("one-for-all", "tokens", False, 2.77, 0.47),
    Gain("one-for-all", "tokens", True, 2.28, 0.57),
    Gain("token-graph", "tokens", False, 1.55, 1.05),
    Gain("token-graph", "tokens", True, 0.97, 0.17),
    Gain("channel-wise", "tokens", False, 0.67, 0.62),
    Gain("channel-wise", "tokens", True, 1.51, 0.48),
    Gain("label-augmentation", "tokens", False, 0.04, 0.36),
    Gain("label-augmentation", "tokens", True, 1.91, 0.6),
    Gain("layered", "tokens", False, -0.35, 0.9),
)


def gains_of(losses: list[str], student: str | None) -> tuple[Gain, ...]:
    """Return what was measured of any of ``losses`` with a student of this kind."""
    return tuple(gain for gain in GAINS if gain.loss in losses and gain.student == student)
