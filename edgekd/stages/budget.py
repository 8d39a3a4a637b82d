"""Layers go back to float, one by one, until the accuracy budget holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from edgekd.data.loader import batches
from edgekd.export.deployed import export_for
from edgekd.export.parity import onnx_predictor, predict_all
from edgekd.graph.program import clone
from edgekd.metrics import compare_outputs, drop_points
from edgekd.processes.group import by_first
from edgekd.progress import Progress
from edgekd.quantize.partial import QuantizedProgram
from edgekd.quantize.placement import Placement
from edgekd.quantize.sensitivity import LayerDamage, measure_sensitivity
from edgekd.recipe import QuantizeStage
from edgekd.state import CompressionState

REASON = "returned to float for the accuracy budget"
BATCH = 64

Convert = Callable[[fx.GraphModule], fx.GraphModule]
Details = dict[str, Any]


def convert_within_budget(
    state: CompressionState,
    program: QuantizedProgram,
    options: QuantizeStage,
    convert: Convert,
    progress: Progress,
) -> tuple[fx.GraphModule, Details]:
    """Return the model with as many layers quantized as the budget allows, and the details.

    Everything quantized is the fastest plan and is tried first. If it misses the budget, every
    layer's damage is measured alone, and layers go back to float in the order of
    ``cheapest_first``, as few as hold the budget. A candidate is judged as the pipeline judges the
    result: exported, in ONNX Runtime, on all validation samples. If the budget does not hold with
    all layers in float, everything stays quantized.
    """
    # ``convert`` changes what it is given.
    model, placement = convert(clone(program.trained)), program.place(program.original, {})
    details: Details = {}
    missed = bool(state.budget) and not by_first(lambda: _holds(state, model, progress))
    if missed or options.sensitivity:
        rows, details["sensitivity"] = _sensitivity(state, program, options, progress)
    if missed:
        rows = cheapest_first(rows)
        search = _Search(state, program, convert, [row.layer for row in rows], progress)
        count = fewest(len(rows), search.holds)
        if search.best is not None:
            model, placement = search.best
        details |= _outcome(rows, count, search.evaluations + 1)
        progress.note(f"quantize: {details['budget']['summary']}")
    return model, {"float_reasons": placement.reasons, **details}


class _Search:
    """Judges how many of the layers, in their order, have to be in float; keeps the best model."""

    def __init__(
        self,
        state: CompressionState,
        program: QuantizedProgram,
        convert: Convert,
        order: list[str],
        progress: Progress,
    ):
        self.state, self.program, self.convert = state, program, convert
        self.order, self.progress = order, progress
        self.evaluations = 0
        self.best: tuple[fx.GraphModule, Placement] | None = None

    def holds(self, count: int) -> bool:
        """Tell whether the budget holds with the first ``count`` layers in float."""
        module, placement = self.program.without(dict.fromkeys(self.order[:count], REASON))
        model = self.convert(module)
        self.evaluations += 1
        held = by_first(lambda: _holds(self.state, model, self.progress))
        if held:  # bisection asks for fewer after each success, so the last one is the best
            self.best = model, placement
        return held


def fewest(count: int, holds: Callable[[int], bool]) -> int | None:
    """Return the least k in 1..count for which ``holds(k)``, or None if it does not hold for all.

    Bisection: at most ceil(log2(count)) + 1 calls, none of them twice. ``holds`` should be
    monotone; where it is not (accuracy on few samples), the result holds but may not be the least.
    """
    low, high, found = 1, count, None
    while low <= high:
        middle = (low + high) // 2
        if holds(middle):
            found, high = middle, middle - 1
        else:
            low = middle + 1
    return found


def cheapest_first(rows: list[LayerDamage]) -> list[LayerDamage]:
    """Order layers by the damage that each multiplication in float spares, the most first.

    Multiplications stand for the latency that a layer costs in float. The order of damage alone is
    no clear loser (docs/quantization.md, ``benchmarks/return_order.py``).
    """
    return sorted(rows, key=lambda row: -row.damage / max(1, row.macs))


def _holds(state: CompressionState, model: fx.GraphModule, progress: Progress) -> bool:
    exported = export_for(state.profile, model, state.example, state.full_spec)
    predict = onnx_predictor(exported.here, state.spec, state.profile.runtime)
    outputs, targets = predict_all(predict, state.data, state.data.validation, state.spec, progress)
    found = compare_outputs(outputs, state.original_outputs, targets)
    original = compare_outputs(state.original_outputs, state.original_outputs, targets)
    return state.budget.holds(drop_points(found, original), found.negative_flips)


def _sensitivity(
    state: CompressionState,
    program: QuantizedProgram,
    options: QuantizeStage,
    progress: Progress,
) -> tuple[list[LayerDamage], Details]:
    inputs, targets = _some_samples(state, options.sensitivity_samples)
    with progress.task("quantize: sensitivity", len(program.layers())) as advance:
        rows = measure_sensitivity(
            program, inputs, targets, advance, classification=state.classification
        )
    return rows, {
        "samples": sum(len(batch[0]) for batch in inputs),
        "measure": "KL divergence" if state.classification else "relative squared error",
        "rows": [row.to_dict() for row in rows],
    }


def _some_samples(
    state: CompressionState, limit: int
) -> tuple[list[tuple[Tensor, ...]], Tensor | None]:
    """Return batches of at most ``limit`` validation samples, drawn by the seed, and targets."""
    order = np.random.default_rng(state.seed)
    inputs: list[tuple[Tensor, ...]] = []
    labels: list[Tensor] = []
    for found, targets in batches(
        state.data, state.data.validation, state.spec, BATCH, order=order, limit=limit
    ):
        inputs.append(found)
        labels += [] if targets is None else [targets]
    return inputs, torch.cat(labels) if labels else None


def _outcome(rows: list[LayerDamage], count: int | None, evaluations: int) -> Details:
    """Return what the search found, as data and in one sentence: which layers paid."""
    layers = [row.layer for row in rows[:count]] if count else []
    tried = f"{evaluations} evaluations of the exported model"
    if count is None:
        text = f"the budget does not hold with all {len(rows)} layers in float either ({tried})"
    else:
        share = sum(row.macs for row in rows[:count]) / max(1, sum(row.macs for row in rows))
        text = (
            f"{count} of {len(rows)} layers went back to float for the accuracy budget, with "
            f"{100 * share:.1f} % of the multiplications: {', '.join(layers)} ({tried})"
        )
    budget = {"held": count is not None, "evaluations": evaluations, "summary": text}
    return {"returned_layers": layers, "budget": budget}
