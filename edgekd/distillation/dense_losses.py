"""The losses for outputs at every place of an image, from their settings."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from edgekd import loss_settings as settings
from edgekd.algorithms import (
    adaptive_masks,
    context_loss,
    dense_kl,
    patch_embedding_loss,
    selective_fusion,
)
from edgekd.algorithms.feature_shapes import at_the_smaller_size, tokens_of_map
from edgekd.algorithms.projector import Projector
from edgekd.distillation.feature_losses import as_map, channels_of, map_shape
from edgekd.distillation.label_losses import labelled
from edgekd.distillation.term import Answers, Pairing, Shape, Term

MASKS = 6  # of adaptive masks where there are no classes at each pixel, as in the source


def dense_kl_term(options: settings.DenseKl) -> Term:
    """Return the term of ``dense_kl``, over all pixels or those with a label."""

    def compare(seen: Answers) -> Tensor:
        student, teacher = seen.outputs[0], seen.teacher_outputs[0]
        valid = None
        if options.labelled_only and seen.labels is not None:
            valid = labelled(seen.labels, student.shape[1])
        return dense_kl.dense_kl(student, teacher, temperature=options.temperature, valid=valid)

    needs = dense_kl.NEEDS | ({"labels"} if options.labelled_only else set())
    return Term(needs, compare)


def context(_: settings.Context, pair: Pairing) -> Term:
    """Return the term of ``context_loss``, added up over the layers."""
    projectors, brought = _as_maps(pair)

    def compare(seen: Answers) -> Tensor:
        losses = [context_loss.context_loss(*both) for both in brought(seen)]
        return torch.stack(losses).sum()

    return Term(context_loss.NEEDS, compare, projectors)


def fusion(options: settings.Fusion, pair: Pairing) -> Term:
    """Return the term of ``fusion_loss`` behind ``SelectiveFusion``.

    Raises ValueError for fewer than two stages, and for a map of one place.
    """
    shapes = [[map_shape(s) for s in side.features] for side in (pair.student, pair.teacher)]
    if any(math.prod(shape[1:]) < 2 for shape in shapes[0]):
        raise ValueError("a map of one place gives its batch norms nothing to normalise by")
    fuse = selective_fusion.SelectiveFusion(
        *([shape[0] for shape in side] for side in shapes), width=options.width
    )

    def compare(seen: Answers) -> Tensor:
        fused: list[Tensor] = fuse([as_map(own) for own in seen.features])
        pairs = [
            at_the_smaller_size(own, as_map(other))
            for own, other in zip(fused, seen.teacher_features, strict=True)
        ]
        return selective_fusion.fusion_loss(*zip(*pairs, strict=True))

    return Term(selective_fusion.NEEDS, compare, fuse)


def patch_embedding(options: settings.PatchEmbedding, pair: Pairing) -> Term:
    """Return the term of ``patch_embedding_loss`` behind a linear layer for each stage.

    Raises ValueError for unlike numbers of patches, and where stages and weights do not fit.
    """
    own, other = (
        [_token_shape(shape) for shape in side.features] for side in (pair.student, pair.teacher)
    )
    for mine, theirs in zip(own, other, strict=True):
        if mine[0] != theirs[0]:
            raise ValueError(
                f"it needs as many patches in both networks, and there are {mine[0]} and "
                f"{theirs[0]}"
            )
    weights = options.stage_weights or patch_embedding_loss.STAGE_WEIGHTS[-len(own) :]
    if len(weights) != len(own):
        raise ValueError(
            f"{len(own)} stages have {len(weights)} weights; set 'stage_weights', one for each"
        )
    project = patch_embedding_loss.PatchEmbeddingProjectors(
        [shape[1] for shape in own], [shape[1] for shape in other]
    )

    def compare(seen: Answers) -> Tensor:
        student = project([_tokens(feature) for feature in seen.features])
        teacher = [_tokens(feature) for feature in seen.teacher_features]
        return patch_embedding_loss.patch_embedding_loss(student, teacher, weights=weights)

    return Term(patch_embedding_loss.NEEDS, compare, project)


def acam(options: settings.Acam, pair: Pairing) -> Term:
    """Return the term of ACAM: masks that both networks choose, and what they imitate under them.

    Raises ValueError for a teacher's map of one channel.
    """
    projectors, brought = _as_maps(pair)
    count = options.masks or pair.student.pixel_classes or MASKS
    choosers = nn.ModuleList(
        adaptive_masks.AdaptiveMasks(map_shape(shape)[0], count) for shape in pair.teacher.features
    )

    def compare(seen: Answers) -> Tensor:
        losses = []
        for choose, (own, other) in zip(choosers, brought(seen), strict=True):
            masks = choose(own, other)
            imitation = adaptive_masks.masked_imitation_loss(own, other, *masks)
            overlap = torch.stack([adaptive_masks.mask_diversity_loss(m) for m in masks]).sum()
            losses.append(imitation + options.diversity * overlap)
        return torch.stack(losses).sum()

    return Term(adaptive_masks.NEEDS, compare, nn.ModuleList([projectors, choosers]))


def _as_maps(
    pair: Pairing,
) -> tuple[nn.ModuleList, Callable[[Answers], list[tuple[Tensor, Tensor]]]]:
    """Return projectors, and what makes maps with equal channels and sizes of all features.

    Raises ValueError for features that are neither maps nor tokens that fill a square.
    """
    sides = zip(pair.student.features, pair.teacher.features, strict=True)
    channels = [(map_shape(own)[0], map_shape(other)[0]) for own, other in sides]
    projectors = nn.ModuleList(nn.Identity() if a == b else Projector(a, b) for a, b in channels)

    def brought(seen: Answers) -> list[tuple[Tensor, Tensor]]:
        found = []
        features = zip(projectors, seen.features, seen.teacher_features, strict=True)
        for project, own, other in features:
            small, reference = at_the_smaller_size(as_map(own), as_map(other))
            found.append((project(small), reference))
        return found

    return projectors, brought


def _token_shape(shape: Shape) -> Shape:
    """Return ``(T, C)`` of tokens, or of a map whose places are tokens."""
    if len(shape) not in (2, 3):
        raise ValueError(f"it needs tokens, or maps, and there is a feature of shape {shape}")
    places = shape[0] if len(shape) == 2 else math.prod(shape[1:])
    return places, channels_of(shape)


def _tokens(feature: Tensor) -> Tensor:
    return tokens_of_map(feature) if feature.ndim == 4 else feature
