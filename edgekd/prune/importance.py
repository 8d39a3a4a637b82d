"""Rank the units of every group by one of the importance measures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, assert_never

import torch
from torch import Tensor, fx

from edgekd.algorithms.importance import gate_gradient, magnitude, normalised, unit_sums
from edgekd.graph.canonical import is_selection
from edgekd.graph.extract import extract
from edgekd.graph.program import output_tensors
from edgekd.graph.tensors import constant, is_op
from edgekd.prune.groups import Dependencies, Group, Member

aten = torch.ops.aten
Kind = Literal["l1", "l2", "bn-scale", "taylor", "activation"]
Inputs = tuple[Tensor, ...]


def rank_units(
    module: fx.GraphModule,
    dependencies: Dependencies,
    kind: Kind,
    samples: Callable[[], Iterable[Inputs]],
    *,
    classification: bool,
    seed: int,
) -> dict[str, Tensor]:
    """Return group name -> importance of its units, ``(units,)`` float32, 0 or more.

    ``samples`` starts a pass over batches; the measures of weights alone do not call it. ``taylor``
    compares across groups as it is, the others have mean 1 in every group. A group without
    BatchNorm, or without a layer whose input is read, takes ``l2`` in place of ``bn-scale`` and
    ``activation``.
    """
    match kind:
        case "l1":
            return {group.name: _norms(module, group, 1) for group in dependencies.groups}
        case "l2":
            return {group.name: _norms(module, group, 2) for group in dependencies.groups}
        case "bn-scale":
            return {group.name: _batch_norm_scales(module, group) for group in dependencies.groups}
        case "taylor":
            return _taylor(module, dependencies, samples(), classification, seed)
        case "activation":
            return _activations(module, dependencies, samples())
        case _:
            assert_never(kind)


def _tensor(module: fx.GraphModule, name: str) -> Tensor:
    owner: object = module
    for part in name.split("."):
        owner = getattr(owner, part)
    assert isinstance(owner, Tensor)
    return owner


def _weights(module: fx.GraphModule, members: Sequence[Member]) -> list[Member]:
    """Return the members that are trained weights of layers: no biases, norms or selections."""
    chosen = _selections(module)
    return [m for m in members if _tensor(module, m.tensor).ndim > 1 and m.tensor not in chosen]


def _selections(module: fx.GraphModule) -> set[str]:
    """Return the kernels that only move channels, for which every unit is alike."""
    convs = (n for n in module.graph.nodes if is_op(n, aten.conv2d.default) and is_selection(n))
    return {str(conv.args[1].target) for conv in convs}


@torch.no_grad()
def _norms(module: fx.GraphModule, group: Group, power: int) -> Tensor:
    members = _weights(module, (*group.produced, *group.consumed))
    return magnitude([(_tensor(module, m.tensor), m.axis, m.indices) for m in members], power)


@torch.no_grad()
def _batch_norm_scales(module: fx.GraphModule, group: Group) -> Tensor:
    scales = {
        str(node.args[1].target)
        for node in module.graph.nodes
        if is_op(node, aten.batch_norm.default) and isinstance(node.args[1], fx.Node)
    }
    found = [
        normalised(unit_sums(_tensor(module, m.tensor).abs(), m.axis, m.indices))
        for m in group.produced
        if m.tensor in scales
    ]
    return torch.stack(found).mean(0) if found else _norms(module, group, 2)


def _taylor(
    module: fx.GraphModule,
    dependencies: Dependencies,
    samples: Iterable[Inputs],
    classification: bool,
    seed: int,
) -> dict[str, Tensor]:
    """Return the mean square over samples of the gate derivatives of the distillation loss.

    Where student and teacher agree, as they do at the start, the gradient of their divergence is
    zero. Its curvature is not: it is the mean square of the gradient of the cross entropy with
    labels drawn from the model's own probabilities (the Fisher information), and removing a unit
    costs half of that. For outputs that are no class logits the draws are Gaussian. Draws are
    independent and of mean zero, so the square of a batch's summed gradient is, in the mean, the
    sum of its samples' squares.

    Source: Theis et al., "Faster gaze prediction with dense networks and Fisher pruning"
    (arXiv 1801.05787), section 2.1; gates as in Molchanov et al. (arXiv 1906.10771).
    """
    generator = torch.Generator().manual_seed(seed)
    readers = {g.name: _weights(module, g.consumed) for g in dependencies.groups}
    names = sorted({m.tensor for members in readers.values() for m in members})
    weights = {name: _tensor(module, name) for name in names}
    before = {name: weight.requires_grad for name, weight in weights.items()}
    totals = {g.name: torch.zeros(g.size) for g in dependencies.groups}
    count = 0
    for weight in weights.values():
        weight.requires_grad_(True)
    for inputs in samples:
        loss = _sampled_loss(output_tensors(module(*inputs)), classification, generator)
        found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        gradients = dict(zip(names, found, strict=True))
        with torch.no_grad():
            for name, members in readers.items():
                parts = [
                    (weights[m.tensor], gradient, m.axis, m.indices)
                    for m in members
                    if (gradient := gradients[m.tensor]) is not None
                ]
                if parts:
                    totals[name] += gate_gradient(parts).square()
        count += len(inputs[0])
    for name, weight in weights.items():
        weight.requires_grad_(before[name])
    return {name: total / max(1, count) for name, total in totals.items()}


def _sampled_loss(
    outputs: tuple[Tensor, ...], classification: bool, generator: torch.Generator
) -> Tensor:
    """Return a loss whose gradient has the divergence's curvature as its mean square."""
    if classification:
        logits = outputs[0]
        drawn = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator)[:, 0]
        return torch.nn.functional.cross_entropy(logits, drawn, reduction="sum")
    terms = []
    for output in (o for o in outputs if o.is_floating_point()):
        noise = torch.randn(output.shape, generator=generator, dtype=output.dtype)
        size = output.detach().square().mean().sqrt().clamp_min(1e-12)
        terms.append((noise * output).sum() / size / output[0].numel() ** 0.5)
    return torch.stack(terms).sum()


@torch.no_grad()
def _activations(
    module: fx.GraphModule, dependencies: Dependencies, samples: Iterable[Inputs]
) -> dict[str, Tensor]:
    """Return the mean absolute value that the layers reading a unit find there."""
    readers = _readers(module)
    read = {
        group.name: [(readers[m.tensor], m.indices) for m in group.consumed if m.tensor in readers]
        for group in dependencies.groups
    }
    nodes = list(dict.fromkeys(node for found in read.values() for (node, _), _ in found))
    starts = [node for node in module.graph.nodes if node.op == "placeholder"]
    tapped = extract(module, starts, nodes)
    totals = {g.name: torch.zeros(g.size) for g in dependencies.groups}
    for inputs in samples:
        values = dict(zip(nodes, tapped(*inputs), strict=True))
        for name, found in read.items():
            for (node, axis), places in found:
                value = values[node].abs()
                totals[name] += unit_sums(value, axis % value.ndim, places) / value.numel()
    return {
        g.name: normalised(totals[g.name]) if read[g.name] else _norms(module, g, 2)
        for g in dependencies.groups
    }


def _readers(module: fx.GraphModule) -> dict[str, tuple[fx.Node, int]]:
    """Return weight name -> (the tensor that its layer reads, the axis of channels there)."""
    found = {}
    for node in module.graph.nodes:
        if is_op(node, aten.linear.default):
            axis = -1
        elif is_op(node, aten.conv1d.default, aten.conv2d.default, aten.conv3d.default):
            axis = 1
            if len(node.args) > 6 and node.args[6] != 1:
                continue  # a grouped weight's input axis counts within the group
        else:
            continue
        weight = node.args[1]
        if constant(module, weight) is not None and isinstance(node.args[0], fx.Node):
            found[str(weight.target)] = (node.args[0], axis)
    return found
