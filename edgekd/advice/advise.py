"""``edgekd distill-advice``: look at a teacher, a student and data, and say what to try first."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from edgekd.advice.capacity import CapacityRatio, capacity
from edgekd.advice.features import Match, compare
from edgekd.advice.findings import Advice, Findings
from edgekd.advice.hints import judge_hints
from edgekd.advice.labels import find_task, judge_labels, judge_teacher
from edgekd.advice.pair import AdviceRequest, open_pair
from edgekd.advice.recommend import Recommendation, command, recommend
from edgekd.advice.rules import apply_rules
from edgekd.progress import Progress, Silent


@dataclass(frozen=True)
class Report:
    """What was found, and what follows from it; ``command`` runs what is recommended."""

    findings: Findings
    advice: tuple[Advice, ...]
    recommendation: Recommendation
    command: str
    student_trained: bool

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        found = self.findings
        return {
            "student_trained": self.student_trained,
            "capacity": {
                **asdict(found.capacity),
                "parameter_ratio": found.capacity.parameters,
                "mac_ratio": found.capacity.macs,
            },
            "features": [_match(match) for match in found.matches],
            "hints": {
                "verdict": found.hints.verdict,
                "reason": found.hints.reason,
                "places": [[m.student.node, m.peer.node] for m in found.hints.places],
            },
            "labels": asdict(found.labels),
            "teacher": None if found.teacher is None else asdict(found.teacher),
            "advice": [advice.to_dict() for advice in self.advice],
            "recommendation": {**self.recommendation.to_dict(), "command": self.command},
        }


def _match(match: Match) -> dict[str, Any]:
    return {**asdict(match), "size_ratio": match.size_ratio}


def advise(request: AdviceRequest, progress: Progress | None = None) -> Report:
    """Measure and judge. Nothing is trained and nothing is written.

    Raises ModelError or DataError for what cannot be used.
    """
    progress = progress or Silent()
    pair = open_pair(request)
    for note in pair.data.notes:
        progress.note(note)
    task = find_task(pair.teacher)
    sizes = [capacity(net.module, net.example) for net in (pair.teacher, pair.student)]
    matches = tuple(compare(pair, request.seed, progress))
    findings = Findings(
        CapacityRatio(*sizes),
        matches,
        judge_hints(matches),
        judge_labels(pair.teacher, task, request.samples, progress),
        judge_teacher(pair.teacher, request.samples, progress) if task == "classes" else None,
    )
    chosen = recommend(findings)
    run = command(request, chosen.recipe)
    return Report(findings, apply_rules(findings), chosen, run, pair.trained)
