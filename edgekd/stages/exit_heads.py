"""Where the early-exit stage puts heads on a program, and the heads themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import fx

from edgekd.cache import StepCache, default_cache
from edgekd.errors import ProfileError, StageError
from edgekd.exits.attach import traced
from edgekd.exits.choose_head import make_head
from edgekd.exits.exit import Exit
from edgekd.exits.places import Place, find_places
from edgekd.graph.layers import is_quantized, layer_macs
from edgekd.progress import Progress
from edgekd.prune.layer_times import open_layer_times
from edgekd.prune.layers import read_layers, record_shapes
from edgekd.recipe import EarlyExitStage
from edgekd.settings import nearest
from edgekd.state import CompressionState

Heads = list[tuple[Exit, str, fx.GraphModule]]  # with the node that it reads, and its program


def choose_places(
    state: CompressionState,
    options: EarlyExitStage,
    model: fx.GraphModule,
    progress: Progress | None,
) -> list[Place]:
    """Return where exits go, by depth; ``model`` gets nodes that nothing reads yet.

    Layers may be timed for it, unless there is no ``progress``: then multiplications are counted.
    Raises StageError for a module behind which no exit can be.
    """
    costs = _macs(state, model) if progress is None else _costs(state, model, progress)
    return _by_sample(state, model, _places(options, model, costs))


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


def make_heads(
    state: CompressionState,
    options: EarlyExitStage,
    model: fx.GraphModule,
    places: Sequence[Place],
) -> Heads:
    """Return a new head for each place; raises StageError where the tensor cannot have one."""
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
