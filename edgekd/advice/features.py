"""Tensors inside both networks, and how alike they are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, fx

from edgekd.advice.pair import Network, Pair, batches
from edgekd.advice.untrained import untrained
from edgekd.algorithms.cka import cka_table
from edgekd.graph.program import output_tensors
from edgekd.graph.taps import feature_names, module_outputs, with_outputs
from edgekd.graph.tensors import is_op, shape_of
from edgekd.progress import Progress

aten = torch.ops.aten
Kind = Literal["map", "tokens", "vector"]

MOST_TAPS = 12  # of each network, spread evenly
SAMPLES = 512
UNTRAINED = 3  # copies of the student; the highest of their similarities counts
_LEAST = 16  # samples in a batch; the unbiased estimate needs 4, and few of them say little


@dataclass(frozen=True)
class Feature:
    """The end of a block.

    ``depth`` is its place among the network's blocks, 1 for the last. ``shape`` is that of one
    sample: ``(C, H, W)`` or ``(C, L)`` of a map, ``(T, C)`` of tokens, ``(C,)`` of a vector.
    """

    node: str
    name: str
    depth: float
    kind: Kind
    shape: tuple[int, ...]

    @property
    def places(self) -> tuple[int, ...]:
        """The sizes without the channels: height and width, or the number of tokens."""
        return self.shape[:-1] if self.kind == "tokens" else self.shape[1:]


@dataclass(frozen=True)
class Match:
    """A feature of the student and two of the teacher.

    ``peer`` is the teacher's feature at the same relative depth, and ``similarity`` theirs:
    minibatch CKA. ``chance`` is the highest that an untrained student reaches there; None where the
    student itself is untrained, whose ``similarity`` it then is. ``best`` is the feature of the
    teacher that is most alike, whatever its depth.
    """

    student: Feature
    peer: Feature
    similarity: float
    chance: float | None
    best: Feature
    best_similarity: float

    @property
    def size_ratio(self) -> tuple[float, ...] | None:
        """The student's sizes over those of ``peer``; None for unlike kinds, empty for vectors."""
        own, other = self.student.places, self.peer.places
        if self.student.kind != self.peer.kind or len(own) != len(other):
            return None
        return tuple(mine / theirs for mine, theirs in zip(own, other, strict=True))


def features(network: Network) -> list[Feature]:
    """Return the ends of blocks, by depth; at most ``MOST_TAPS``, of which one is the last.

    Tensors that are neither maps, tokens nor vectors are left out.
    """
    nodes = {node.name: node for node in network.module.graph.nodes}
    names, paths = feature_names(network.module), module_outputs(network.module)
    found = []
    for place, name in enumerate(names, 1):
        node = nodes[name]
        shape, kind = (shape_of(node) or ())[1:], _kind(node)
        if kind is not None and all(isinstance(size, int) for size in shape):
            sizes = tuple(int(size) for size in shape)
            found.append(Feature(name, _label(paths, node), place / len(names), kind, sizes))
    if len(found) <= MOST_TAPS:
        return found
    step = len(found) / MOST_TAPS
    return [found[math.ceil(step * (i + 1)) - 1] for i in range(MOST_TAPS)]


def _kind(node: fx.Node) -> Kind | None:
    shape = shape_of(node) or ()
    if len(shape) == 3:
        return "map" if _is_signal(node) else "tokens"
    by_axes: dict[int, Kind] = {2: "vector", 4: "map", 5: "map"}
    return by_axes.get(len(shape))


def _is_signal(node: fx.Node) -> bool:
    """Tell whether the channels of a tensor of three axes are the second, as conv1d has them."""
    frontier, seen = [node], {node}
    while frontier:
        current = frontier.pop(0)
        if is_op(current, aten.conv1d.default, aten.conv1d.padding, aten.conv_transpose1d.default):
            return True
        if is_op(current, aten.linear.default, aten.layer_norm.default, aten.conv2d.default):
            return False
        frontier += [n for n in current.all_input_nodes if n not in seen]
        seen.update(frontier)
    return False


def _label(outputs: Mapping[str, fx.Node], node: fx.Node) -> str:
    """Return the module whose last tensor this is, else the node and the module that it is in."""
    ending = [path for path, output in outputs.items() if output is node]
    if ending:
        return min(ending, key=len)
    stack = node.meta.get("nn_module_stack") or {}
    inside = [entry[0] for entry in stack.values() if entry[0]]
    return f"{node.name} in {inside[-1]}" if inside else node.name


def compare(pair: Pair, seed: int, progress: Progress) -> list[Match]:
    """Return every feature of the student with the teacher's that it goes with, by depth.

    The similarity is linear minibatch CKA over samples of the calibration set. Empty where one of
    the networks has no features. Raises DataError for too few samples.
    """
    own, others = features(pair.student), features(pair.teacher)
    if not own or not others:
        return []
    copies = UNTRAINED if pair.trained else 0
    table = cka_table(_batches(pair, own, others, copies, seed, progress))
    matches = []
    for row, feature in enumerate(own):
        peer = min(range(len(others)), key=lambda i: abs(others[i].depth - feature.depth))
        best = max(range(len(others)), key=lambda i: table[row][i])
        by_chance = [table[row + len(own) * (copy + 1)][peer] for copy in range(copies)]
        matches.append(
            Match(
                feature,
                others[peer],
                table[row][peer],
                max(by_chance) if by_chance else None,
                others[best],
                table[row][best],
            )
        )
    return matches


def _batches(
    pair: Pair,
    own: list[Feature],
    others: list[Feature],
    copies: int,
    seed: int,
    progress: Progress,
) -> Iterator[tuple[Iterable[Tensor], Iterable[Tensor]]]:
    """Yield features of the student and its copies, and of the teacher.

    One network runs when its features are read, so that never more than one's are in memory.
    """
    names = [feature.node for feature in own]
    first = pair.student.module
    learners = [first, *(untrained(first, seed + i) for i in range(copies))]
    tapped = [with_outputs(module, names) for module in learners]
    reference = with_outputs(pair.teacher.module, [feature.node for feature in others])
    samples = pair.data.calibration
    indices = list(batches(samples, SAMPLES, least=min(_LEAST, max(len(samples), 4))))
    with progress.task("Comparing features", len(indices)) as advance:
        for batch in indices:
            inputs, _ = pair.student.inputs(samples, batch)
            theirs, _ = pair.teacher.inputs(samples, batch)
            found = (feature for module in tapped for feature in _run(module, inputs, len(own)))
            yield found, _run(reference, theirs, len(others))
            advance(1)


@torch.no_grad()
def _run(module: fx.GraphModule, inputs: tuple[Tensor, ...], count: int) -> tuple[Tensor, ...]:
    """Return the last ``count`` outputs."""
    return output_tensors(module(*inputs))[-count:]
