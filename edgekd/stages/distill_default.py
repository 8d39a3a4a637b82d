"""What a ``distill`` stage compares if its recipe names no losses."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import fx

from edgekd.distillation.losses import places_of
from edgekd.loss_settings import ChannelWise, DenseKl, Kl, LossSettings, Relational, RelativeMse
from edgekd.state import CompressionState
from edgekd.training_settings import DistillStage

CHANNELS, RELATIONS = ChannelWise(loss="channel-wise"), Relational(loss="relational")
RELATED = 256  # samples a batch: what relations of samples take grows with its third power
# By what student and teacher have between their last blocks.
BESIDE_KL: dict[tuple[str, str], tuple[LossSettings, ...]] = {
    ("map", "map"): (CHANNELS,),
    ("tokens", "map"): (RELATIONS,),
}


def losses_of(
    state: CompressionState, options: DistillStage, student: fx.GraphModule, teacher: fx.GraphModule
) -> Sequence[LossSettings]:
    """Return the recipe's losses, or those that fit the outputs and the two networks.

    A student from random weights compares features beside KL, where they are of kinds for which
    docs/benchmarks.md has a loss that gained: the one that gained most. Students that start from
    weights, dense outputs, numbers and embeddings were not measured.
    """
    if options.losses is not None:
        return options.losses
    if state.dense:
        return (DenseKl(loss="dense-kl"),)
    if not state.classification:
        return (RelativeMse(loss="mse"),)
    beside = _beside_kl(student, teacher) if may_compare_features(options) else ()
    if beside == (RELATIONS,) and options.batch_size > RELATED:
        beside = ()
    return (Kl(loss="kl"), *beside)


def may_compare_features(options: DistillStage) -> bool:
    """Tell whether a stage without ``losses`` compares features, if they are of fitting kinds."""
    anew = options.student is not None and options.student_weights is None
    return options.losses is None and anew and options.original_weight > 0


def _beside_kl(student: fx.GraphModule, teacher: fx.GraphModule) -> tuple[LossSettings, ...]:
    try:
        (own, teachers), *_ = places_of(RELATIONS, student, teacher)
    except ValueError:
        return ()
    return BESIDE_KL.get((_kind(own.shape), _kind(teachers.shape)), ())


def _kind(shape: tuple[int, ...]) -> str:
    if len(shape) == 3 and math.prod(shape[1:]) > 1:
        return "map"
    return "tokens" if len(shape) == 2 and shape[0] > 1 else "vector"
