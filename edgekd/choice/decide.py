"""Which candidate production is to run. Pure: what was measured goes in, a choice comes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgekd.bench.stats import SpeedUp, speed_up
from edgekd.choice.candidates import Candidate, Measured
from edgekd.metrics import Budget, drop_points

SLACK_POINTS = 1.0
"""What a candidate may lose beyond the compressed model on its usual runtime, without a limit.

Enough for the few samples that another rounding turns, and not for a runtime that computes the
graph wrongly (8-bit products that saturate on processors without VNNI).
"""


@dataclass(frozen=True)
class Choice:
    """The candidate for production, why it is that one, and whether compressing was worth it.

    ``held`` are the candidates within the limits. ``reason`` and ``verdict`` are sentences.
    """

    measured: Measured
    chosen: Candidate
    held: tuple[Candidate, ...]
    worth_it: bool
    reason: str
    verdict: str

    def deployment(self) -> dict[str, Any]:
        """Return the manifest's entry that tells ``edgekd.runtime.load`` what to open."""
        return {
            "model": self.chosen.model,
            "runtime": self.chosen.runtime,
            "precision": self.chosen.precision,
            "reason": self.reason,
            "worth_it": self.worth_it,
            "verdict": self.verdict,
        }

    def candidates(self) -> dict[str, Any]:
        """Return the table of all candidates as plain data for the manifest."""
        return {
            "rows": [self._row(candidate) for candidate in self.measured.candidates],
            "skipped": list(self.measured.skipped),
            "latency": self.measured.latency.to_dict(samples=True),
        }

    def _row(self, candidate: Candidate) -> dict[str, Any]:
        quality = self.measured.quality[candidate.name]
        original = self.measured.quality[self.measured.candidates[0].name]
        return {
            **vars(candidate),
            "name": candidate.name,
            "arithmetic": candidate.arithmetic,
            "metric": quality.metric,
            "accuracy": quality.value,
            "drop_points": drop_points(quality, original),
            "quality": quality.to_dict(),
            **self.measured.latency.models[candidate.name].to_dict(samples=False),
            "within_limits": candidate in self.held,
            "chosen": candidate == self.chosen,
        }


def decide(measured: Measured, limits: Budget, *, verb: str = "Compressing") -> Choice:
    """Choose the fastest candidate within the limits.

    The compressed model on the first runtime is what others have to beat: one of them is taken
    only if every process of the duet saw it faster. Where the compressed model there misses the
    limits, the original takes that place. ``verb`` begins the verdict.
    """
    original, default = _anchors(measured.candidates)
    held = _within(measured, limits, original, default)
    anchor = default if default in held or original not in held else original
    faster = [c for c in held if c != anchor and _against(measured, anchor, c).low > 1]
    chosen = max(faster, key=lambda c: _against(measured, anchor, c).ratio, default=anchor)
    reason = _reason(measured, chosen, anchor, default)
    worth_it, verdict = _verdict(measured, chosen, held, verb)
    return Choice(measured, chosen, held, worth_it, reason, verdict)


def _anchors(candidates: Sequence[Candidate]) -> tuple[Candidate, Candidate]:
    """Return the original and the compressed model on the first runtime in FP32."""
    original = candidates[0]
    default = next(
        c for c in candidates if (c.model, c.runtime) == ("compressed", original.runtime)
    )
    return original, default


def _within(
    measured: Measured, limits: Budget, original: Candidate, default: Candidate
) -> tuple[Candidate, ...]:
    quality = measured.quality
    best = quality[original.name]
    max_drop = limits.max_drop
    if max_drop is None:
        max_drop = max(0.0, drop_points(quality[default.name], best)) + SLACK_POINTS
    return tuple(
        c
        for c in measured.candidates
        if drop_points(quality[c.name], best) <= max_drop + 1e-9
        and limits.allows_flips(quality[c.name].negative_flips)
    )


def _against(measured: Measured, base: Candidate, other: Candidate) -> SpeedUp:
    """Return how many times faster than ``base`` the ``other`` is, from their paired calls."""
    models = measured.latency.models
    return speed_up(models[base.name].samples_ms, models[other.name].samples_ms)


def _reason(measured: Measured, chosen: Candidate, anchor: Candidate, default: Candidate) -> str:
    missed = "" if anchor == default else f"{default} misses the limits; "
    if chosen == anchor:
        n = measured.latency.protocol.processes
        return f"{chosen}: {missed}nothing else within the limits was faster in all {n} processes"
    return f"{chosen}: {missed}{_times(_against(measured, anchor, chosen))} as fast as {anchor}"


def _verdict(
    measured: Measured, chosen: Candidate, held: Sequence[Candidate], verb: str
) -> tuple[bool, str]:
    """Say whether the compressed model is worth having, against the fastest original."""
    first = measured.candidates[0]

    def fastest(model: str) -> Candidate | None:
        own = [c for c in held if c.model == model]
        return max(own, key=lambda c: _against(measured, first, c).ratio, default=None)

    compressed = chosen if chosen.model == "compressed" else fastest("compressed")
    original = chosen if chosen.model == "baseline" else fastest("baseline")
    if compressed is None:
        return False, f"{verb} was not worth it: the compressed model misses the limits everywhere"
    if original is None:
        return True, f"{verb} was worth it: no original is within the limits"
    gain = _against(measured, original, compressed)
    text = f"{compressed} is {_times(gain)} as fast as {original}"
    if gain.low > 1 and chosen.model == "compressed":
        return True, f"{verb} was worth it: {text}"
    if gain.low <= 1 <= gain.high:
        return (
            False,
            f"{verb} brought no speed that this duet can show, so was not worth it: {text}",
        )
    return False, f"{verb} was not worth it for speed: {text}"


def _times(speed: SpeedUp) -> str:
    return f"{speed.ratio:.2f}x ({speed.low:.2f} to {speed.high:.2f})"
