"""The two trainings of early exits: backbone and heads together, and the heads alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import fx

from edgekd.errors import StageError
from edgekd.exits.attach import Attached, backbone_tensors, without_exits
from edgekd.exits.places import Place
from edgekd.graph.cuts import block_ends
from edgekd.graph.float_form import float_form
from edgekd.graph.taps import Tap, matching_taps
from edgekd.graph.tensors import shape_of
from edgekd.progress import Progress
from edgekd.recipe import EarlyExitStage, ExitHeads
from edgekd.sparse.masking import apply_masks, held_zeros, lost_zeros
from edgekd.stages.distillation import distill
from edgekd.stages.distillation_loss import unknown_layer
from edgekd.state import CompressionState
from edgekd.training import training_device


def train_all(
    state: CompressionState,
    options: EarlyExitStage,
    model: fx.GraphModule,
    student: Attached,
    places: Sequence[Place],
    progress: Progress,
) -> dict[str, Any]:
    """Train backbone and heads together, with zeros held that an earlier stage has made."""
    training = options.joint
    assert training is not None
    masks = held_zeros(model) if state.keep_zeros else {}
    here = {name: mask.to(training_device()) for name, mask in masks.items()}
    original = float_form(state.teacher, state.example)
    taps: list[Tap] = []
    if training.feature_weight > 0:
        with unknown_layer("early_exit"):
            taps = matching_taps(student.module, original, training.feature_layers)
    details = distill(
        state,
        original,
        student.module,
        training,
        progress,
        title="early_exit: backbone and heads",
        taps=taps,
        after_step=lambda _: apply_masks(student.module, here),
        exit_weights=[options.exit_weight * place.share for place in places],
    )
    if lost := lost_zeros(student.module, masks):
        raise StageError(
            f"early_exit: zeros were lost in {', '.join(lost[:3])}: a defect of edgekd"
        )
    return details


def train_heads(
    state: CompressionState,
    options: ExitHeads,
    student: Attached,
    own: int,
    places: Sequence[Place],
    progress: Progress,
) -> dict[str, Any]:
    """Train the heads against the final output; nothing else changes."""
    taps = head_taps(student, own)
    if options.feature_weight > 0 and not taps:
        options = options.model_copy(update={"feature_weight": 0.0})
        progress.note("early_exit: no head has features of the last block's size to compare")
    return distill(
        state,
        student.module,
        student.module,
        options,
        progress,
        title="early_exit: heads",
        taps=taps,
        exit_weights=[1.0] * len(places),
        self_taught=True,
        frozen=frozenset(backbone_tensors(student.module)),
    )


def head_taps(student: Attached, own: int) -> list[Tap]:
    """Return what heads pool beside the last tensor between two blocks, where sizes agree.

    Blocks are those of the program without its heads: behind a place, heads need its tensor too,
    so that nothing further on cuts the whole program in two.
    """
    nodes = {node.name: node for node in student.module.graph.nodes}
    last = block_ends(without_exits(student.module, own))[-1:]
    return [
        Tap(name, end.name)
        for end in last
        for name in student.features
        if name != end.name and _size(nodes[name]) == _size(end)
    ]


def _size(node: fx.Node) -> tuple[str, ...]:
    shape = shape_of(node)
    return () if shape is None else tuple(map(str, shape[1:]))
