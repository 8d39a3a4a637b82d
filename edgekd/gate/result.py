"""What a gate found: one check after the other, and the verdict of all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from edgekd.gate.decision import Verdict
from edgekd.gate.latency import LatencyVerdict

OnInconclusive = Literal["report", "pass", "fail"]

PASSED, REGRESSION, NO_VERDICT = 0, 1, 3  # exit codes, see edgekd_cli/app.py


@dataclass(frozen=True)
class Check:
    """One thing that was compared, in words for people and in numbers for programs.

    ``values`` are plain data; ``note`` is what a reader has to know or do.
    """

    name: str
    verdict: Verdict
    baseline: str
    candidate: str
    change: str
    limit: str
    note: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class GateResult:
    """All checks of a gate; ``latency`` is the one that was measured, ``conditions`` the
    board's state meanwhile, empty for this machine."""

    baseline: str
    candidate: str
    checks: tuple[Check, ...]
    latency: LatencyVerdict
    on_inconclusive: OnInconclusive
    conditions: Mapping[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """The worst of the checks: a regression, then no conclusion."""
        verdicts = [check.verdict for check in self.checks]
        for worst in ("regression", "inconclusive", "improvement"):
            if worst in verdicts:
                return worst
        return "pass"

    @property
    def exit_code(self) -> int:
        """0 passed, 1 regression, 3 no verdict, unless ``on_inconclusive`` says otherwise."""
        if self.verdict == "regression":
            return REGRESSION
        if self.verdict != "inconclusive":
            return PASSED
        return {"report": NO_VERDICT, "pass": PASSED, "fail": REGRESSION}[self.on_inconclusive]

    def to_dict(self, *, samples: bool) -> dict[str, Any]:
        """Return plain data for JSON, with or without every raw sample."""
        return {
            "kind": "gate",
            "verdict": self.verdict,
            "exit_code": self.exit_code,
            "baseline": self.baseline,
            "candidate": self.candidate,
            "checks": [asdict(check) for check in self.checks],
            "latency": self.latency.to_dict(samples=samples),
            "conditions": dict(self.conditions),
        }


def latency_check(found: LatencyVerdict) -> Check:
    """Return the check of a latency verdict."""
    spread = f"{signed_percent(found.low)} to {signed_percent(found.high)}"
    return Check(
        name="latency",
        verdict=found.verdict,
        baseline=f"{found.baseline_ms:.3f} ms",
        candidate=f"{found.candidate_ms:.3f} ms",
        change=f"{signed_percent(found.change)} ({spread})",
        limit=signed_percent(found.limit),
        note=found.note,
        values={
            name: math.expm1(value) if math.isfinite(value) else None
            for name in ("change", "low", "high", "limit")
            for value in [getattr(found, name)]
        },
    )


def signed_percent(log_ratio: float) -> str:
    """Return a log ratio as ``+1.2 %``; a bound that is not known as ``?``."""
    return f"{100 * math.expm1(log_ratio):+.2f} %" if math.isfinite(log_ratio) else "?"
