"""The sparsify stage: single weights become zero in a pattern, and the rest learns without them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from edgekd.data.loader import batches
from edgekd.device import DeviceProfile
from edgekd.errors import StageError
from edgekd.graph.float_form import float_form
from edgekd.graph.program import clone, refresh
from edgekd.graph.taps import matching_taps
from edgekd.progress import Progress
from edgekd.recipe import SparsifyStage
from edgekd.sparse.gain import Gain, expected_gain
from edgekd.sparse.gradual import GradualMasks
from edgekd.sparse.layers import Choice, choose_layers
from edgekd.sparse.masking import apply_masks, lost_zeros, stored
from edgekd.sparse.patterns import NM, Block, Masks, Pattern, magnitude_masks, parse_pattern
from edgekd.sparse.second_order import prune_second_order
from edgekd.sparse.sizes import sparse_bytes
from edgekd.stages.distillation import check_distillation, distill
from edgekd.stages.distillation_loss import unknown_layer
from edgekd.stages.train_student import reestimate_statistics, schedule_of
from edgekd.state import CompressionState
from edgekd.training import Inputs, training_device
from edgekd.training_settings import Recovery

BATCH = 16  # a convolution's inputs, unfolded, take as often as its kernel has places


def requires(state: CompressionState, options: SparsifyStage) -> None:
    """Refuse before any work what this stage cannot do on this model and data."""
    pattern = _pattern(options)
    if options.method == "sparsegpt" and isinstance(pattern, Block):
        raise StageError("sparsify: method sparsegpt has no form for blocks: use method magnitude")
    if _is_left_out(options, expected_gain(state.profile, pattern)):
        return
    choice = choose_layers(
        float_form(state.model, state.example), pattern, keep_ends=options.keep_ends
    )
    if not choice.layers:
        reasons = "; ".join(f"{name}: {why}" for name, why in list(choice.dense.items())[:3])
        raise StageError(
            f"sparsify: no layer of the model can have the pattern {pattern} ({reasons or 'none'}):"
            " choose another pattern, or set keep_ends to false"
        )
    if options.distill is not None:
        check_distillation(state, options.distill, stage="sparsify")


def describe(options: SparsifyStage, profile: DeviceProfile) -> str:
    """Say in one line what the stage will do, and what the target gains from it."""
    pattern = _pattern(options)
    gain = expected_gain(profile, pattern)
    if _is_left_out(options, gain):
        return f"left out (if_no_gain): {gain.text}"
    training = (
        "no training"
        if options.distill is None
        else f"then {options.distill.epochs} epochs of distillation"
    )
    ramp = f", rising over {options.ramp:.0%} of the steps" if _ramps(options, pattern) else ""
    return (
        f"{pattern}, {pattern.sparsity:.0%} zeros by {options.method}{ramp}, {training}; "
        f"{gain.text}"
    )


def run(state: CompressionState, options: SparsifyStage, progress: Progress) -> CompressionState:
    """Return the state with zeros in its weights; the same model where nothing is gained.

    N:M masks are made at once, from the trained weights, and stay (Mishra et al., arXiv
    2104.08378, section 4); so are those of ``sparsegpt``, which corrects the other weights for
    them. Only magnitude masks of the other patterns rise along a schedule, since at their higher
    sparsity the weights that are small at first are not those that can best be spared.
    """
    pattern = _pattern(options)
    gain = expected_gain(state.profile, pattern)
    if _is_left_out(options, gain):
        progress.note(f"sparsify: left out: {gain.text}")
        return state.with_model(state.model, sparsity={"skipped": True, **_about(options, gain)})
    model = float_form(state.model, state.example)
    choice = choose_layers(model, pattern, keep_ends=options.keep_ends)
    gain = expected_gain(state.profile, pattern, choice)
    progress.note(f"sparsify: {gain.text}")
    student = clone(model)
    if _ramps(options, pattern):
        weights = stored(student, choice.weights)
        masks = {name: torch.ones_like(w, dtype=torch.bool) for name, w in weights.items()}
    else:
        masks = _first_masks(state, student, choice, options, progress)
        apply_masks(student, masks)
    details: dict[str, Any] = {}
    if options.distill is None:
        reestimate_statistics(state, student, 64, torch.device("cpu"))
    else:
        found, masks = _train(state, model, student, masks, options, options.distill, progress)
        details |= found
    if lost := lost_zeros(student, masks):
        raise StageError(f"sparsify: zeros were lost in {', '.join(lost[:3])}: a defect of edgekd")
    report = {**_about(options, gain), **_zeros(choice, masks)}
    return state.with_model(refresh(student, state.example), **details, sparsity=report)


def _pattern(options: SparsifyStage) -> Pattern:
    return parse_pattern(options.pattern, options.sparsity, options.block)


def _is_left_out(options: SparsifyStage, gain: Gain) -> bool:
    return options.if_no_gain == "skip" and not gain.faster


def _ramps(options: SparsifyStage, pattern: Pattern) -> bool:
    gradual = options.method == "magnitude" and not isinstance(pattern, NM)
    return gradual and options.distill is not None and options.ramp > 0


def _first_masks(
    state: CompressionState,
    student: fx.GraphModule,
    choice: Choice,
    options: SparsifyStage,
    progress: Progress,
) -> Masks:
    pattern = _pattern(options)
    if options.method == "magnitude":
        return magnitude_masks(pattern, stored(student, choice.weights))
    count = min(options.samples, len(state.data.calibration))
    with progress.task("sparsify: SparseGPT", -(-count // BATCH) + len(choice.layers)) as advance:

        def inputs() -> Iterator[Inputs]:
            found = batches(state.data, state.data.calibration, state.spec, BATCH, limit=count)
            for batch, _ in found:
                yield batch
                advance(1)

        return prune_second_order(student, choice.weights, pattern, inputs(), advance)


def _train(
    state: CompressionState,
    model: fx.GraphModule,
    student: fx.GraphModule,
    masks: Masks,
    options: SparsifyStage,
    recovery: Recovery,
    progress: Progress,
) -> tuple[dict[str, Any], Masks]:
    """Train the student in place; return the details and the masks that it ended with.

    Masks that rise make the loss rise with them, so that only training under fixed masks is
    undone where it did not help.
    """
    pattern = _pattern(options)
    ramps = _ramps(options, pattern)
    steps = round(options.ramp * schedule_of(state, recovery).steps)
    gradual = GradualMasks(
        student, masks, pattern, max(1, steps) if ramps else 0, device=training_device()
    )
    with unknown_layer("sparsify"):
        taps = matching_taps(student, model, recovery.feature_layers)
    details = distill(
        state,
        model,
        student,
        recovery,
        progress,
        title="sparsify: distillation",
        taps=taps,
        teacher=None if state.model is state.teacher else state.teacher,
        after_step=gradual,
        carried=gradual.masks,
        undo=not ramps,
    )
    return details, {name: mask.cpu() for name, mask in gradual.masks.items()}


def _about(options: SparsifyStage, gain: Gain) -> dict[str, Any]:
    pattern = _pattern(options)
    return {
        "pattern": str(pattern),
        "planned": pattern.sparsity,
        "method": options.method,
        "faster": gain.faster,
        "gain": gain.text,
    }


def _zeros(choice: Choice, masks: Masks) -> dict[str, Any]:
    """Return how many weights of which layer are zero, and what they take as stored."""
    rows = [
        {
            "layer": layer.name,
            "weights": masks[layer.weight].numel(),
            "zeros": int((~masks[layer.weight]).sum()),
            "macs": layer.macs,
        }
        for layer in choice.layers
    ]
    return {
        "layers": rows,
        "dense": choice.dense,
        "weights": sum(row["weights"] for row in rows),
        "zeros": sum(row["zeros"] for row in rows),
        "dense_bytes": sum(4 * mask.numel() for mask in masks.values()),
        "sparse_bytes": sum(sparse_bytes(mask) for mask in masks.values()),
    }
