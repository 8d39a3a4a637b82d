"""The early-exit stage: heads in the middle of a classifier, and a backbone that serves them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import fx

from edgekd.cache import StepCache, default_cache
from edgekd.errors import ProfileError, StageError
from edgekd.exits.attach import Attached, attach, backbone_tensors, traced, without_exits
from edgekd.exits.choose_head import make_head
from edgekd.exits.exit import Exit
from edgekd.exits.places import Place, find_places
from edgekd.graph.canonical import make_functional, remove_identities
from edgekd.graph.cuts import block_ends
from edgekd.graph.float_form import float_form
from edgekd.graph.layers import is_quantized, layer_macs
from edgekd.graph.program import clone, output_nodes, output_tensors, refresh
from edgekd.graph.taps import Tap, matching_taps
from edgekd.graph.tensors import shape_of
from edgekd.progress import Progress
from edgekd.prune.layer_times import open_layer_times
from edgekd.prune.layers import read_layers, record_shapes
from edgekd.recipe import EarlyExitStage, ExitHeads
from edgekd.settings import nearest
from edgekd.sparse.masking import apply_masks, held_zeros, lost_zeros
from edgekd.stages.distillation import check_distillation, distill
from edgekd.stages.distillation_loss import unknown_layer
from edgekd.stages.exit_quantize import quantize_heads
from edgekd.state import CompressionState
from edgekd.training import training_device

Heads = list[tuple[Exit, str, fx.GraphModule]]  # with the node that it reads, and its program


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
    places = _by_sample(state, model, _places(options, model, _macs(state, model)))
    _make_heads(state, options, model, places)


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
    places = _places(options, model, _costs(state, model, progress))
    places = _by_sample(state, model, places)
    heads = _make_heads(state, options, model, places)
    exits = tuple(exit for exit, _, _ in heads)
    student = attach(model, [(exit.name, place, head) for exit, place, head in heads])
    own = len(output_nodes(model))
    details: dict[str, Any] = {}
    if options.joint is not None:
        details["joint"] = _train_all(state, options, model, student, places, progress)
    if options.auxiliary:
        stripped = refresh(without_exits(student.module, own), state.example)
        return state.with_model(stripped, **details, early_exit=_about(options, exits))
    if options.heads is not None:
        details["heads"] = _train_heads(state, options.heads, student, own, places, progress)
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


def _costs(
    state: CompressionState, model: fx.GraphModule, progress: Progress
) -> Mapping[str, float]:
    """Return the cost of every layer by node name: time on the target, or multiplications.

    These are for a program that is quantized already, whose layers are in no table, and for a
    target whose profile has no figures.
    """
    if is_quantized(model):
        return _macs(state, model)
    cache = state.cache or StepCache(default_cache())
    try:
        times = open_layer_times(state.profile, cache.root / "layers", progress)
    except ProfileError:
        return _macs(state, model)
    layers = read_layers(model, (), record_shapes(model, state.example))
    known = times.times({layer.shape for layer in layers})
    return {layer.node: known[layer.shape] for layer in layers}


def _macs(state: CompressionState, model: fx.GraphModule) -> Mapping[str, float]:
    """Return the multiplications of one sample by node name; a list of tokens has several rows."""
    rows = {name: shape[0] for name, shape in record_shapes(model, state.example).items() if shape}
    return {
        node.name: float(rows.get(node.name, 1) * layer_macs(model, node))
        for node in model.graph.nodes
    }


def _places(
    options: EarlyExitStage,
    model: fx.GraphModule,
    costs: Mapping[str, float],
) -> list[Place]:
    """Return where exits go; raises StageError for a module behind which none can be."""
    try:
        places = find_places(model, costs, options.at, options.candidates)
    except ValueError as error:
        pattern, names = error.args
        raise StageError(
            f"early_exit: there is no exit behind {pattern!r}: either no module has that name, or "
            f"more than one tensor is still needed behind it{nearest(pattern, names)}; places: "
            f"{', '.join(names)}"
        ) from None
    if not places:
        raise StageError(
            "early_exit: the model has no place between its blocks at which a single tensor "
            "carries everything, so that no exit can be put there; leave the stage out"
        )
    return places


def _by_sample(
    state: CompressionState, model: fx.GraphModule, places: Sequence[Place]
) -> list[Place]:
    """Let heads read one row for each sample, where quantize has made a list of all tokens."""
    shapes = record_shapes(model, state.example)
    nodes = {node.name: node for node in model.graph.nodes}
    found = []
    for place in places:
        rows, *sizes = shapes[place.node]
        node = nodes[place.node]
        if rows > 1:
            with model.graph.inserting_after(node):
                node = model.graph.call_function(
                    torch.ops.aten.reshape.default, (node, [-1, rows, *sizes])
                )
            flat = nodes[place.node].meta["val"]
            node.meta = {"val": flat.new_zeros(2, rows, *sizes)}
        found.append(replace(place, node=node.name))
    return found


def _make_heads(
    state: CompressionState,
    options: EarlyExitStage,
    model: fx.GraphModule,
    places: Sequence[Place],
) -> Heads:
    nodes = {node.name: node for node in model.graph.nodes}
    classes = int(state.spec.outputs[0].shape[-1] or 0)
    heads: Heads = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(state.seed)
        for count, place in enumerate(places, start=1):
            node = nodes[place.node]
            try:
                head = make_head(model, node, place.share, options.head, classes)
            except ValueError as error:
                raise StageError(
                    f"early_exit: behind {place.after}: {error}; choose another head or place"
                ) from None
            exit_ = Exit(f"exit_{count}", place.after, place.share, head.kind)
            heads.append((exit_, place.node, traced(head, node)))
    return heads


def _train_all(
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


def _train_heads(
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
