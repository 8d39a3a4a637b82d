"""The losses on how tokens, or places of a map, attend to or lie to one another."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from edgekd import loss_settings as settings
from edgekd.algorithms import generic_distillation, minilm, scale_kd, token_graph
from edgekd.algorithms.feature_shapes import at_the_smaller_size, resized, tokens_of_map
from edgekd.distillation.feature_tensors import as_map, map_shape, unless_few
from edgekd.distillation.term import Answers, Pairing, Shape, Side, Term


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

    return Term(scale_kd.NEEDS, unless_few(2, compare), projectors)


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

    return Term(token_graph.NEEDS, unless_few(options.neighbours // places + 1, compare), loss)


def generic_term(options: settings.Generic, pair: Pairing) -> Term:
    """Return the term of ``generic_loss``: tokens, or places of a map, behind a predictor."""
    own, other = (map_shape(side.features[-1])[0] for side in (pair.student, pair.teacher))
    predictor = generic_distillation.FeaturePredictor(own, other)

    def compare(seen: Answers) -> Tensor:
        maps = at_the_smaller_size(as_map(seen.features[-1]), as_map(seen.teacher_features[-1]))
        mine, theirs = (tokens_of_map(x) for x in maps)
        return generic_distillation.generic_loss(predictor(mine), theirs, beta=options.beta)

    return Term(generic_distillation.NEEDS, compare, predictor)


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
