"""When which loss is worth a try: the table of rules, each with its source.

A rule is a function of what was found; it says what to do and why, or nothing. It may only repeat
what its sources measured. ``RULES`` is the table, in the order in which advice is shown.

From the benchmark: ``edgekd.advice.measured`` has its figures. They stand beside every loss that
was measured, and a loss that gained is advice of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from edgekd.advice import how_rules as how
from edgekd.advice import loss_rules as losses
from edgekd.advice import measured
from edgekd.advice.findings import Advice, Findings, kinds

Rule = Callable[[Findings], Advice | None]

RULES: tuple[Rule, ...] = (
    losses.plain,
    losses.without_labels,
    losses.dense,
    losses.numbers,
    losses.few_classes,
    losses.gap,
    losses.unlike,
    losses.transformer_to_cnn,
    losses.cnn_to_transformer,
    losses.tokens,
    losses.hints,
    how.wide_gap,
    how.same_size,
    how.calibration,
    losses.measured,
    how.known_by_heart,
    how.missing_classes,
    how.patience,
)


def apply_rules(found: Findings) -> tuple[Advice, ...]:
    """Return what the rules say; exactly one of it is ``base``, and that comes first."""
    student = (kinds(found) or (None,))[0]
    said = []
    for rule in RULES:
        if (advice := rule(found)) is not None:
            gains = measured.gains_of([entry.loss for entry in advice.losses], student)
            said.append(replace(advice, gains=gains))
    return tuple(sorted(said, key=lambda advice: advice.role != "base"))
