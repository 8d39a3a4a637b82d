"""From the losses that a recipe names to terms for a pair of networks, wrong pairings refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torch import fx

from edgekd import loss_settings as settings
from edgekd.algorithms.standardized_kl import MIN_CLASSES
from edgekd.distillation import dense_losses as dense
from edgekd.distillation import feature_losses as features
from edgekd.distillation import logit_losses as logits
from edgekd.distillation import output_losses as outputs
from edgekd.distillation.attention import last_attention
from edgekd.distillation.pairing import Place, block_places, named_places, pair_places
from edgekd.distillation.term import Pairing, Side, Term
from edgekd.loss_settings import LossSettings

_CLASSES = "class logits with integer labels that index them"
_PIXELS = "class logits at each pixel, (C, H, W) a sample, with integer labels (H, W)"

# What a term is made of: the settings alone, or the two networks too.
ALONE: dict[type[Any], Callable[[Any], Term]] = {
    settings.Kl: logits.kl,
    settings.HardClass: logits.hard_class_term,
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
    settings.DenseKl: dense.dense_kl_term,
    settings.FerKd: outputs.ferkd_term,
    settings.Bins: outputs.bins_term,
    settings.TwoTeacher: outputs.two_teacher,
}
PAIRED: dict[type[Any], Callable[[Any, Pairing], Term]] = {
    settings.Cosine: logits.cosine,
    settings.TopKKl: logits.top_k,
    settings.Taid: logits.taid_term,
    settings.DualHead: features.dual_head_term,
    settings.Hint: features.hint,
    settings.SquareHead: features.squarehead,
    settings.AttentionTransfer: features.attention_transfer_term,
    settings.Relational: features.relational,
    settings.MutualInformation: features.mutual_information_term,
    settings.ScaleKd: features.scale_kd_term,
    settings.OneForAll: features.one_for_all_term,
    settings.TokenGraph: features.token_graph_term,
    settings.ChannelWise: features.channel_wise,
    settings.MiniLm: features.minilm_term,
    settings.First: outputs.first_term,
    settings.Context: dense.context,
    settings.Fusion: dense.fusion,
    settings.PatchEmbedding: dense.patch_embedding,
    settings.Acam: dense.acam,
}
# Where tensors in between are compared if the recipe names no layers.
PLACES: dict[type[Any], Literal["stages", "last", "attention", "named"]] = {
    settings.DualHead: "last",
    settings.Hint: "stages",
    settings.SquareHead: "stages",
    settings.AttentionTransfer: "stages",
    settings.Relational: "last",
    settings.MutualInformation: "last",
    settings.ScaleKd: "last",
    settings.OneForAll: "stages",
    settings.TokenGraph: "last",
    settings.ChannelWise: "last",
    settings.MiniLm: "attention",
    settings.Context: "stages",
    settings.Fusion: "stages",
    settings.PatchEmbedding: "named",
    settings.Acam: "last",
}


def build_term(options: LossSettings, pair: Pairing) -> Term:
    """Return the term of one loss.

    Raises ValueError, with the reason, for networks that the loss cannot compare.
    """
    kind = type(options)
    return ALONE[kind](options) if kind in ALONE else PAIRED[kind](options, pair)


def places_of(
    options: LossSettings, student: fx.GraphModule, teacher: fx.GraphModule
) -> list[tuple[Place, Place]]:
    """Return where a loss compares tensors in between: none for one on outputs.

    Raises ValueError, with the reason, where there is nothing to compare.
    """
    where = PLACES.get(type(options))
    if where is None:
        return []
    if where == "attention":
        return _attention(student, teacher)
    if layers := getattr(options, "layers", ()):
        return named_places(student, teacher, layers)
    if where == "named":
        raise ValueError(
            "it compares what stages begin with, which only you know; name those modules under "
            "'layers', from the first stage to the last"
        )
    for whose, module in (("student", student), ("teacher", teacher)):
        if not block_places(module):
            raise ValueError(
                f"it compares what lies between blocks, and the {whose} cannot be cut into blocks; "
                "name modules under 'layers'"
            )
    found = pair_places(block_places(student), block_places(teacher))
    return found[-1:] if where == "last" else found


def _attention(student: fx.GraphModule, teacher: fx.GraphModule) -> list[tuple[Place, Place]]:
    own, other = last_attention(student), last_attention(teacher)
    if own is None or other is None:
        raise ValueError(
            f"it compares attention, and the {'student' if own is None else 'teacher'} has none "
            "with a head axis"
        )
    return list(zip(own, other, strict=True))


def check_needs(term: Term, pair: Pairing, *, teachers: int) -> None:
    """Raise ValueError, with the reason, where a term does not have what it needs.

    Labels come with class logits: without them edgekd does not know what an output means.
    """
    side, needs = pair.student, term.needs
    classes = side.classes
    reasons = {
        "classes": None if classes else _why_no_classes(side, needs),
        "dense": None
        if len(side.outputs[0]) == 3
        else "it is for outputs at every place of an image, (C, H, W) a sample, and not "
        f"{side.outputs[0]}",
        "bins": None
        if all(len(shape) == 2 for shape in side.outputs)
        else "it needs outputs (keypoints, bins) a sample, one for each axis, and not "
        f"{', '.join(map(str, side.outputs))}",
        "regression": None
        if side.regression
        else "it needs targets of floats, as many for each sample as the first output has",
        "two-teachers": None
        if teachers == 2
        else "it is for two teachers, the original and one more under 'teachers', and there "
        f"{'is' if teachers == 1 else 'are'} {teachers}",
        "labels": None if classes or {"dense", "regression"} & needs else f"it needs {_CLASSES}",
        "three-classes": None
        if classes >= MIN_CLASSES
        else f"it needs {MIN_CLASSES} classes or more, since {classes} standardised logits are "
        "always the same numbers; use 'kl'",
        "several-teachers": None
        if teachers > 1
        else "it averages several teachers; name others under 'teachers', or give --teacher FILE",
    }
    for need in sorted(needs):
        if (reason := reasons.get(need)) is not None:
            raise ValueError(reason)


def _why_no_classes(side: Side, needs: frozenset[str]) -> str | None:
    """Say why a loss on class logits cannot be used; None where it is one at each pixel."""
    if "dense" in needs:
        return None if side.pixel_classes else f"it needs {_PIXELS}; use 'mse'"
    if side.pixel_classes:
        return (
            "it compares one set of class logits a sample, and here is one at each pixel; use "
            "'dense-kl'"
        )
    return f"it needs {_CLASSES}; use 'mse'"
