"""The early-exit stage: heads in the middle of a classifier, and a backbone that serves them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import fx

from edgekd.errors import StageError
from edgekd.exits.attach import attach, without_exits
from edgekd.exits.exit import Exit
from edgekd.graph.canonical import make_functional, remove_identities
from edgekd.graph.float_form import float_form
from edgekd.graph.layers import is_quantized
from edgekd.graph.program import clone, output_nodes, output_tensors, refresh
from edgekd.progress import Progress
from edgekd.recipe import EarlyExitStage
from edgekd.stages.distillation import check_distillation
from edgekd.stages.exit_heads import choose_places, make_heads
from edgekd.stages.exit_quantize import quantize_heads
from edgekd.stages.exit_training import train_all, train_heads
from edgekd.state import CompressionState


def requires(state: CompressionState, options: EarlyExitStage) -> None:
    """Refuse before any work what this stage cannot do on this model and data."""
    if not state.classification:
        raise StageError(
            "early_exit: only classifiers can have early exits: the first output must be class "
            "logits, and the data needs integer labels that index them"
        )
    if len(state.spec.outputs) > 1 and not options.auxiliary:
        names = ", ".join(tensor.name for tensor in state.spec.outputs)
        raise StageError(
            f"early_exit: a sample that leaves early has class logits and nothing else, and the "
            f"model has several outputs ({names}); leave the others out of it"
        )
    for training in (options.joint, options.heads):
        if training is not None:
            check_distillation(state, training, stage="early_exit")
    if options.heads is not None and options.heads.feature_layers:
        raise StageError(
            "early_exit: 'heads.feature_layers' has no use: heads learn from the last tensor "
            "between two blocks; leave it out"
        )
    model = _writable(state, options)
    places = choose_places(state, options, model, None)
    make_heads(state, options, model, places)


def describe(options: EarlyExitStage) -> str:
    """Say in one line what the stage will do."""
    count = len(options.at) or options.candidates
    where = f"behind {', '.join(options.at)}" if options.at else f"at up to {count} places"
    parts = [
        "backbone unchanged"
        if options.joint is None
        else f"{options.joint.epochs} epochs of backbone and heads together",
        ""
        if options.heads is None or options.auxiliary
        else f"{options.heads.epochs} of the heads",
    ]
    kind = "heads for training only" if options.auxiliary else f"heads ({options.head})"
    return f"{kind} {where}, {', then '.join(filter(None, parts))}"


def run(state: CompressionState, options: EarlyExitStage, progress: Progress) -> CompressionState:
    """Return the state with a program that also gives the logits of every exit.

    Two phases as in LGViT (Xu et al., ACM MM 2023, arXiv 2308.00255, section 3.4): everything
    together against the original, the loss of an exit weighted by its depth; then the heads alone
    against the final output of the model that they sit on. Without the first phase the final output
    stays what it was to the last bit, which is checked. With ``auxiliary`` heads only the first
    runs, and they are taken off again.
    """
    model = _writable(state, options)
    places = choose_places(state, options, model, progress)
    heads = make_heads(state, options, model, places)
    exits = tuple(exit for exit, _, _ in heads)
    student = attach(model, [(exit.name, place, head) for exit, place, head in heads])
    own = len(output_nodes(model))
    details: dict[str, Any] = {}
    if options.joint is not None:
        details["joint"] = train_all(state, options, model, student, places, progress)
    if options.auxiliary:
        stripped = refresh(without_exits(student.module, own), state.example)
        return state.with_model(stripped, **details, early_exit=_about(options, exits))
    if options.heads is not None:
        details["heads"] = train_heads(state, options.heads, student, own, places, progress)
    module = student.module
    if is_quantized(model):
        module = quantize_heads(state, module, [p.node for p in places], own, progress)
    result = refresh(module, state.example)
    if options.joint is None:
        _ensure_unchanged(state, result, own)
    after = state.with_model(result, **details, early_exit=_about(options, exits))
    return replace(after, exits=exits)


def _writable(state: CompressionState, options: EarlyExitStage) -> fx.GraphModule:
    """Return a copy in which places can be found and heads put.

    A backbone that is not trained keeps every operation that has to do with its numbers.
    """
    if options.joint is not None:
        return float_form(state.model, state.example)
    model = clone(state.model)
    make_functional(model)
    remove_identities(model)
    return refresh(model, state.example)


@torch.no_grad()
def _ensure_unchanged(state: CompressionState, after: fx.GraphModule, own: int) -> None:
    """Hold the stage to its promise, bit for bit, on the example batch."""
    was = output_tensors(state.model(*state.example))
    now = output_tensors(after(*state.example))[:own]
    if not all(torch.equal(a, b) for a, b in zip(was, now, strict=True)):
        raise StageError(
            "early_exit: the final output is not what it was, although the backbone was not "
            "trained: a defect of edgekd"
        )


def _about(options: EarlyExitStage, exits: Sequence[Exit]) -> dict[str, Any]:
    return {
        "backbone": "frozen" if options.joint is None else "trained",
        "auxiliary": options.auxiliary,
        "exits": [asdict(exit) for exit in exits],
    }
