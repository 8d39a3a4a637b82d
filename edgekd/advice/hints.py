"""Whether a student can be told to copy the teacher's features value by value.

The rule, for a feature of the student and the teacher's at the same relative depth:

1. Both are of one kind: maps, tokens or vectors. Hao et al. (NeurIPS 2023, arXiv 2310.19444)
   measure that features of unlike architectures diverge, and that hints then fail.
2. The student's map is no smaller than the teacher's. The regressor of FitNets (Romero et al., ICLR
   2015, arXiv 1412.6550, section 2) is a convolution without padding: it shrinks maps, and cannot
   make them larger.
3. A trained student is more like the teacher there, by CKA, than untrained ones are: what it
   learned by itself goes the teacher's way. CKA as a measure that finds what networks of different
   origin have in common is from Kornblith et al. (ICML 2019, arXiv 1905.00414); that a low one
   speaks against hints is from Hao et al. To hold it against untrained networks is our own.

Hints make sense where the rule holds for half of the student's features or more (our limit). With
an untrained student nothing is known of the third point: the verdict is then open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edgekd.advice.features import Match

Verdict = Literal["yes", "no", "open"]


@dataclass(frozen=True)
class Hints:
    """The verdict, why, and the matches for which all that is known speaks for a hint."""

    verdict: Verdict
    reason: str
    places: tuple[Match, ...] = ()


def judge_hints(matches: Sequence[Match]) -> Hints:
    """Apply the rule of this file."""
    if not matches:
        return Hints("no", "one of the networks has no blocks whose features could be compared")
    total = len(matches)
    alike = [match for match in matches if match.student.kind == match.peer.kind]
    if 2 * len(alike) < total:
        own, other = (
            _commonest([getattr(match, side).kind for match in matches])
            for side in ("student", "peer")
        )
        return Hints(
            "no",
            f"the student's features are {_plural(own)}, the teacher's {_plural(other)} at the "
            "same depth: features of unlike architectures diverge, and raw hints then fail",
        )
    fitting = [match for match in alike if _resolves(match)]
    if 2 * len(fitting) < total:
        return Hints(
            "no",
            f"at {total - len(fitting)} of {total} places the student's map is smaller than the "
            "teacher's, which no regressor can make up for",
        )
    if any(match.chance is None for match in fitting):
        return Hints(
            "open",
            f"shapes fit at {len(fitting)} of {total} places, but the student is untrained: "
            "CKA with the teacher says nothing yet; train it, with plain KL for instance, and ask "
            "again",
            tuple(fitting),
        )
    nearer = [match for match in fitting if match.similarity > (match.chance or 0.0)]
    told = (
        f"at {len(nearer)} of {total} places shapes fit and the student is more like the teacher "
        f"than {'any' if nearer else 'every'} untrained copy of it"
    )
    if 2 * len(nearer) < total:
        return Hints("no", f"only {told}: what it learned goes another way", tuple(nearer))
    return Hints("yes", told, tuple(nearer))


def _resolves(match: Match) -> bool:
    return match.size_ratio is not None and all(ratio >= 1 for ratio in match.size_ratio)


def _plural(kind: str) -> str:
    return kind if kind == "tokens" else f"{kind}s"


def _commonest(kinds: Sequence[str]) -> str:
    return max(sorted(set(kinds)), key=kinds.count)
