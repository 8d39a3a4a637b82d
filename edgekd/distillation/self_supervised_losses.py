"""The losses on transformed images: turned ones with joint labels, and hidden patches."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from edgekd import loss_settings as settings
from edgekd.algorithms import (
    hierarchical_self_supervision,
    label_augmentation,
    layered_self_supervision,
    masked_autoencoder,
)
from edgekd.algorithms.feature_shapes import resized, tokens_of_map
from edgekd.algorithms.label_augmentation import ROTATIONS
from edgekd.algorithms.token_mask import TokenMask, patches, visible_tokens
from edgekd.distillation.branch_losses import branch_behind
from edgekd.distillation.feature_tensors import as_map, channels_of, map_shape
from edgekd.distillation.term import Answers, Pairing, Side, Term, View
from edgekd.distillation.views import HiddenPatches, check_turns, image_shape, patch_grid, turned


def label_augmentation_term(options: settings.LabelAugmentation, pair: Pairing) -> Term:
    """Return the term of ``label_augmentation_distillation_loss``; no teacher is asked."""
    check_turns(pair)
    channels = channels_of(pair.student.features[-1])
    head = label_augmentation.JointHead(channels, max(pair.student.classes, 1))

    def compare(seen: Answers) -> Tensor:
        return label_augmentation.label_augmentation_distillation_loss(
            seen.outputs[0][::ROTATIONS],
            head(seen.features[-1]),
            labels=seen.known_labels,
            temperature=options.temperature,
        )

    return Term(label_augmentation.NEEDS, compare, head, view=View(turned, teacher=False))


def layered_term(options: settings.Layered, pair: Pairing) -> Term:
    """Return the term of ``layered_loss``; the student teaches itself."""
    check_turns(pair)
    branches = _joint_branches(pair.student)

    def compare(seen: Answers) -> Tensor:
        return layered_self_supervision.layered_loss(
            seen.outputs[0][::ROTATIONS],
            _joint_logits(branches, seen.features),
            labels=seen.known_labels,
            temperature=options.temperature,
            branch_weight=options.between,
            logit_weight=options.logits,
        )

    needs = layered_self_supervision.NEEDS
    return Term(needs, compare, branches, view=View(turned, teacher=False))


def hierarchical_term(options: settings.Hierarchical, pair: Pairing) -> Term:
    """Return the term of ``hierarchical_loss`` plus ``branch_loss`` of the teacher's branches.

    The teacher is frozen, so its features and its own logits get no gradient; its branches learn
    beside the student, which learns from them as they are at each step.
    """
    check_turns(pair)
    mine, theirs = _joint_branches(pair.student), _joint_branches(pair.teacher)

    def compare(seen: Answers) -> Tensor:
        own = _joint_logits(mine, seen.features)
        other = _joint_logits(theirs, [x.detach() for x in seen.teacher_features])
        taught = hierarchical_self_supervision.hierarchical_loss(
            seen.outputs[0],
            seen.teacher_outputs[0],
            student_branches=own,
            teacher_branches=[logits.detach() for logits in other],
            labels=seen.known_labels,
            temperature=options.temperature,
        )
        return taught + hierarchical_self_supervision.branch_loss(other, labels=seen.known_labels)

    trained = nn.ModuleList([mine, theirs])
    return Term(hierarchical_self_supervision.NEEDS, compare, trained, view=View(turned))


def masked_autoencoder_term(options: settings.MaskedAutoencoder, pair: Pairing) -> Term:
    """Return the term of ``reconstruction_loss`` and ``alignment_loss`` under one random mask."""
    grid, size = patch_grid(pair, options.patch), options.patch
    own, other = (map_shape(side.features[-1])[0] for side in (pair.student, pair.teacher))
    values = image_shape(pair)[0] * size**2
    decoder = masked_autoencoder.PatchDecoder(own, values, grid[0] * grid[1], width=options.width)
    projector = nn.Identity() if own == other else nn.Linear(own, other)

    def visible(feature: Tensor, mask: TokenMask) -> Tensor:
        return visible_tokens(tokens_of_map(resized(as_map(feature), grid)), mask)

    def compare(seen: Answers) -> Tensor:
        mask, images = seen.mask, seen.images
        assert mask is not None and images is not None  # the view gives them
        tokens = visible(seen.features[-1], mask)
        drawn = masked_autoencoder.reconstruction_loss(
            decoder(tokens, mask), patches(images, size), mask.masked
        )
        aligned = masked_autoencoder.alignment_loss(
            projector(tokens), visible(seen.teacher_features[-1], mask)
        )
        return drawn + options.align * aligned

    view = View(HiddenPatches(size, options.ratio))
    trained = nn.ModuleList([decoder, projector])
    return Term(masked_autoencoder.NEEDS, compare, trained, view=view)


def _joint_branches(side: Side) -> nn.ModuleList:
    """Return a branch to joint logits behind each stage."""
    shapes, joint = side.features, max(side.classes, 1) * ROTATIONS
    width = channels_of(shapes[-1])
    return nn.ModuleList(
        branch_behind(shape, width, joint, len(shapes) - 1 - index)
        for index, shape in enumerate(shapes)
    )


def _joint_logits(branches: nn.ModuleList, features: Sequence[Tensor]) -> list[Tensor]:
    return [branch(x) for branch, x in zip(branches, features, strict=True)]
