"""From the losses that a recipe names to terms for a pair of networks, wrong pairings refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgekd import loss_settings as settings
from edgekd.algorithms.standardized_kl import MIN_CLASSES
from edgekd.distillation import logit_losses as logits
from edgekd.distillation.term import Pairing, Term
from edgekd.loss_settings import LossSettings

_CLASSES = "class logits with integer labels that index them"

# What a term is made of: the settings alone, or the two networks too.
ALONE: dict[type[Any], Callable[[Any], Term]] = {
    settings.Kl: logits.kl,
    settings.RelativeMse: logits.mse,
    settings.SmoothL1: logits.smooth_l1,
    settings.StandardizedKl: logits.standardized,
    settings.PlackettLuce: logits.plackett_luce_term,
    settings.Sinkhorn: logits.sinkhorn_term,
    settings.BalancedKl: logits.balanced,
    settings.Ssld: logits.ssld_term,
    settings.Meal: logits.meal_term,
    settings.Repeated: logits.repeated,
    settings.MarginPreserving: logits.margin,
    settings.LabelTrust: logits.trust,
}
PAIRED: dict[type[Any], Callable[[Any, Pairing], Term]] = {
    settings.Cosine: logits.cosine,
    settings.TopKKl: logits.top_k,
    settings.Taid: logits.taid_term,
}


def build_term(options: LossSettings, pair: Pairing) -> Term:
    """Return the term of one loss.

    Raises ValueError, with the reason, for networks that the loss cannot compare.
    """
    kind = type(options)
    return ALONE[kind](options) if kind in ALONE else PAIRED[kind](options, pair)


def check_needs(term: Term, pair: Pairing, *, teachers: int) -> None:
    """Raise ValueError, with the reason, where a term does not have what it needs.

    Labels come with class logits: without them edgekd does not know what an output means.
    """
    classes = pair.student.classes
    reasons = {
        "classes": None if classes else f"it needs {_CLASSES}; use 'mse'",
        "labels": None if classes else f"it needs {_CLASSES}",
        "three-classes": None
        if classes >= MIN_CLASSES
        else f"it needs {MIN_CLASSES} classes or more, since {classes} standardised logits are "
        "always the same numbers; use 'kl'",
        "several-teachers": None
        if teachers > 1
        else "it averages several teachers; name others under 'teachers'",
    }
    for need in sorted(term.needs):
        if (reason := reasons.get(need)) is not None:
            raise ValueError(reason)
