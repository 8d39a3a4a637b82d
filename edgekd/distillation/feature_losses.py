"""The losses on tensors in between, from their settings, with the projectors that they need."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from edgekd import loss_settings as settings
from edgekd.algorithms import (
    attention_transfer,
    channel_wise_loss,
    dual_head,
    hint_loss,
    minilm,
    mutual_information,
    one_for_all,
    relational_loss,
    scale_kd,
    token_graph,
)
from edgekd.algorithms import squarehead as square
from edgekd.algorithms.feature_shapes import (
    at_the_smaller_size,
    map_of_tokens,
    pooled,
    resized,
    tokens_of_map,
)
from edgekd.algorithms.logit_branch import MapBranch, TokenBranch
from edgekd.algorithms.projector import Projector
from edgekd.distillation.pairing import square_side
from edgekd.distillation.term import Answers, Pairing, Shape, Side, Term

Compare2 = Callable[[Tensor, Tensor], Tensor]


def channels_of(shape: Shape) -> int:
    """Return C of a map ``(C, H, W)``, of tokens ``(T, C)`` or of a vector ``(C,)``."""
    return shape[1] if len(shape) == 2 else shape[0]


def map_shape(shape: Shape) -> Shape:
    """Return ``(C, H, W)`` of a map, or of tokens that fill a square behind a few others.

    Raises ValueError for anything else.
    """
    if len(shape) == 3:
        return shape
    if len(shape) == 2 and (side := square_side(shape[0])) is not None:
        return shape[1], side, side
    raise ValueError(
        f"it needs maps, or tokens that fill a square, and there is a feature of shape {shape}"
    )


def as_map(feature: Tensor) -> Tensor:
    """Return ``(N, C, H, W)`` of a map, or of tokens as ``map_shape`` takes them."""
    if feature.ndim == 4:
        return feature
    side = math.isqrt(feature.shape[1])
    return map_of_tokens(feature, special=feature.shape[1] - side**2)


def _alike(pair: Pairing) -> bool:
    """Tell whether all compared tensors have as many axes and places, so that none is a map."""
    return all(
        len(own) == len(other) < 3 and (len(own) == 1 or own[0] == other[0])
        for own, other in zip(pair.student.features, pair.teacher.features, strict=True)
    )


def _projectors(pair: Pairing) -> nn.ModuleList:
    """Return a projector for each pair of tensors with unlike channels, else nothing to do."""
    sides = zip(pair.student.features, pair.teacher.features, strict=True)
    channels = [(channels_of(own), channels_of(other)) for own, other in sides]
    return nn.ModuleList(nn.Identity() if a == b else Projector(a, b) for a, b in channels)


def _projected(
    pair: Pairing,
) -> tuple[nn.ModuleList, Callable[[Answers], list[tuple[Tensor, Tensor]]]]:
    """Return projectors, and what brings both networks' tensors to equal shapes.

    Raises ValueError for tensors that are neither alike nor maps.
    """
    projectors, alike = _projectors(pair), _alike(pair)
    if not alike:
        for shape in (*pair.student.features, *pair.teacher.features):
            map_shape(shape)

    def brought(seen: Answers) -> list[tuple[Tensor, Tensor]]:
        found = []
        for project, own, other in zip(
            projectors, seen.features, seen.teacher_features, strict=True
        ):
            if alike:
                found.append((project(own), other))
            else:
                small, reference = at_the_smaller_size(as_map(own), as_map(other))
                found.append((project(small), reference))
        return found

    return projectors, brought


def _mean(losses: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(losses)).mean()


def _unless_few(least: int, compare: Compare2) -> Callable[[Answers], Tensor]:
    """Return a loss of the last pair of tensors; 0 for a batch (the last one) below ``least``."""

    def loss(seen: Answers) -> Tensor:
        own, other = seen.features[-1], seen.teacher_features[-1]
        return compare(own, other) if len(own) >= least else own.sum() * 0.0

    return loss


def dual_head_term(options: settings.DualHead, pair: Pairing) -> Term:
    """Return the term of ``dual_head_loss``, its head on the student's pooled feature."""
    head = dual_head.DualHead(
        channels_of(pair.student.features[-1]),
        max(pair.student.classes, 1),
        hidden=options.hidden,
        dropout=options.dropout,
    )

    def compare(seen: Answers) -> Tensor:
        if len(seen.outputs[0]) < 2:  # its batch norm has nothing to normalise by
            return seen.outputs[0].sum() * 0.0
        logits = head(pooled(seen.features[-1]))
        return dual_head.dual_head_loss(
            logits, seen.teacher_outputs[0], temperature=options.temperature
        )

    return Term(dual_head.NEEDS, compare, head)


def hint(_: settings.Hint, pair: Pairing) -> Term:
    """Return the term of ``hint_loss``, the mean over the layers."""
    projectors, brought = _projected(pair)
    return Term(
        hint_loss.NEEDS,
        lambda seen: _mean([hint_loss.hint_loss(*both) for both in brought(seen)]),
        projectors,
    )


def squarehead(_: settings.SquareHead, pair: Pairing) -> Term:
    """Return the term of ``squarehead_loss``."""
    projectors, brought = _projected(pair)

    def compare(seen: Answers) -> Tensor:
        own, other = zip(*brought(seen), strict=True)
        return square.squarehead_loss(own, other, seen.valid)

    return Term(square.NEEDS, compare, projectors)


def attention_transfer_term(options: settings.AttentionTransfer, pair: Pairing) -> Term:
    """Return the term of ``attention_transfer_loss``, added up over the layers."""
    for shape in (*pair.student.features, *pair.teacher.features):
        map_shape(shape)

    def compare(seen: Answers) -> Tensor:
        pairs = zip(seen.features, seen.teacher_features, strict=True)
        losses = [
            attention_transfer.attention_transfer_loss(
                as_map(own), as_map(other), power=options.power
            )
            for own, other in pairs
        ]
        return torch.stack(losses).sum()

    return Term(attention_transfer.NEEDS, compare)


def relational(options: settings.Relational, _: Pairing) -> Term:
    """Return the term of both relational losses."""

    def both(own: Tensor, other: Tensor) -> Tensor:
        distance = relational_loss.relational_distance_loss(own, other)
        angle = relational_loss.relational_angle_loss(own, other)
        return options.distance * distance + options.angle * angle

    return Term(relational_loss.NEEDS, _unless_few(3, both))


def mutual_information_term(options: settings.MutualInformation, pair: Pairing) -> Term:
    """Return the term of ``MutualInformationLoss``."""
    loss = mutual_information.MutualInformationLoss(
        channels_of(pair.student.features[-1]),
        channels_of(pair.teacher.features[-1]),
        alpha=options.alpha,
        hidden=options.hidden,
        out=options.out,
    )
    return Term(mutual_information.NEEDS, _unless_few(3, loss), loss)


def scale_kd_term(options: settings.ScaleKd, pair: Pairing) -> Term:
    """Return the term of ``dual_view_loss`` behind two attention projectors."""
    channels = map_shape(pair.student.features[-1])[0]
    wide, height, width = map_shape(pair.teacher.features[-1])
    projectors = nn.ModuleList(
        scale_kd.AttentionProjector(channels, wide, (height, width), heads=options.heads)
        for _ in range(2)
    )
    share = 49 / (height * width)  # the loss is a sum over places
    weights = (options.direct * share, options.centred * share)

    def compare(own: Tensor, other: Tensor) -> Tensor:
        direct, centred = (project(as_map(own)) for project in projectors)
        return scale_kd.dual_view_loss(direct, centred, as_map(other), weights=weights)

    return Term(scale_kd.NEEDS, _unless_few(2, compare), projectors)


def one_for_all_term(options: settings.OneForAll, pair: Pairing) -> Term:
    """Return the term of ``one_for_all_loss`` of the output and of a branch behind each stage."""
    shapes, classes = pair.student.features, max(pair.student.classes, 1)
    width = max(channels_of(shapes[-1]), channels_of(pair.teacher.features[-1]))
    branches = nn.ModuleList(
        _branch(shape, width, classes, len(shapes) - 1 - index)
        for index, shape in enumerate(shapes)
    )

    def compare(seen: Answers) -> Tensor:
        answers = [seen.outputs[0]]
        if len(seen.outputs[0]) > 1:  # batch norms have nothing to normalise by
            answers += [b(x) for b, x in zip(branches, seen.features, strict=True)]
        losses = [
            one_for_all.one_for_all_loss(
                answer,
                seen.teacher_outputs[0],
                labels=seen.known_labels,
                exponent=options.exponent,
                temperature=options.temperature,
            )
            for answer in answers
        ]
        return torch.stack(losses).sum()

    return Term(one_for_all.NEEDS, compare, branches)


def _branch(shape: Shape, width: int, classes: int, following: int) -> nn.Module:
    if len(shape) == 3:
        return MapBranch(shape[0], width, classes, halvings=following)
    if len(shape) == 1:
        return nn.Linear(shape[0], classes)
    channels, side, _ = map_shape(shape)
    return TokenBranch(
        channels,
        -(-width // 4) * 4,
        classes,
        side=side,
        blocks=max(following, 1),
        special=shape[0] - side**2,
    )


def token_graph_term(options: settings.TokenGraph, pair: Pairing) -> Term:
    """Return the term of ``TokenGraphLoss``; places of a map are tokens."""
    own, other = map_shape(pair.student.features[-1]), map_shape(pair.teacher.features[-1])
    loss = token_graph.TokenGraphLoss(
        own[0],
        other[0],
        tokens=options.tokens,
        neighbours=options.neighbours,
        temperature=options.temperature,
    )
    size = min(own[1], other[1]), min(own[2], other[2])
    places = size[0] * size[1]

    def compare(mine: Tensor, theirs: Tensor) -> Tensor:
        student, teacher = (tokens_of_map(resized(as_map(x), size)) for x in (mine, theirs))
        found: Tensor = loss(student, teacher)
        return found

    return Term(token_graph.NEEDS, _unless_few(options.neighbours // places + 1, compare), loss)


def channel_wise(options: settings.ChannelWise, pair: Pairing) -> Term:
    """Return the term of ``channel_wise_loss``, the mean over the layers."""
    for shape in (*pair.student.features, *pair.teacher.features):
        if math.prod(map_shape(shape)[1:]) < 2:
            raise ValueError("a map of one place says nothing about where a channel is active")
    projectors, brought = _projected(pair)

    def compare(seen: Answers) -> Tensor:
        pairs = brought(seen)
        losses = [
            channel_wise_loss.channel_wise_loss(*both, temperature=options.temperature)
            for both in pairs
        ]
        return _mean(losses)

    return Term(channel_wise_loss.NEEDS, compare, projectors)


def minilm_term(options: settings.MiniLm, pair: Pairing) -> Term:
    """Return the term of ``relation_loss``; the features are queries, keys (turned) and values."""
    widths = [
        shape[0] * shape[2] for side in (pair.student, pair.teacher) for shape in _q_and_v(side)
    ]
    if wrong := [width for width in widths if width % options.heads]:
        raise ValueError(
            f"a width of {wrong[0]} does not split into {options.heads} heads; set 'heads'"
        )
    tokens = [side.features[0][1] for side in (pair.student, pair.teacher)]
    if tokens[0] != tokens[1]:
        raise ValueError(
            f"it needs as many tokens in both networks, and there are {tokens[0]} and {tokens[1]}"
        )

    def joined(features: Sequence[Tensor]) -> list[Tensor]:
        query, keys, value = features
        return [minilm.joined_heads(x) for x in (query, keys.transpose(-2, -1), value)]

    def compare(seen: Answers) -> Tensor:
        return minilm.relation_loss(
            joined(seen.features),
            joined(seen.teacher_features),
            heads=options.heads,
            valid=seen.valid,
        )

    return Term(minilm.NEEDS, compare)


def _q_and_v(side: Side) -> tuple[Shape, Shape]:
    return side.features[0], side.features[2]
