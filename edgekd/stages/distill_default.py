"""What a ``distill`` stage compares if its recipe names no losses."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import fx

from edgekd.distillation.losses import places_of
from edgekd.loss_settings import ChannelWise, DenseKl, Kl, LossSettings, RelativeMse
from edgekd.state import CompressionState
from edgekd.training_settings import DistillStage


def losses_of(
    state: CompressionState, options: DistillStage, student: fx.GraphModule, teacher: fx.GraphModule
) -> Sequence[LossSettings]:
    """Return the recipe's losses, or those that fit the outputs and the two networks.

    The channel-wise loss stands beside KL where a network of maps, from random weights, learns from
    another one: of all losses in docs/benchmarks.md it gained most there. Students that start from
    weights, dense outputs, numbers and embeddings were not measured.
    """
    if options.losses is not None:
        return options.losses
    if state.dense:
        return (DenseKl(loss="dense-kl"),)
    if not state.classification:
        return (RelativeMse(loss="mse"),)
    maps = ChannelWise(loss="channel-wise")
    if may_compare_maps(options) and _both_maps(maps, student, teacher):
        return (Kl(loss="kl"), maps)
    return (Kl(loss="kl"),)


def may_compare_maps(options: DistillStage) -> bool:
    """Tell whether a stage without ``losses`` compares maps, if both networks have them."""
    anew = options.student is not None and options.student_weights is None
    return options.losses is None and anew and options.original_weight > 0


def _both_maps(loss: LossSettings, student: fx.GraphModule, teacher: fx.GraphModule) -> bool:
    try:
        places = places_of(loss, student, teacher)
    except ValueError:
        return False
    shapes = [place.shape for pair in places for place in pair]
    return all(len(shape) == 3 and math.prod(shape[1:]) > 1 for shape in shapes)
