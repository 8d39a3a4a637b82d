"""The losses that look at changed images: turned ones, and ones of which a part is hidden."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from edgekd import loss_settings as settings
from edgekd.algorithms import (
    hierarchical_self_supervision,
    label_augmentation,
    layered_self_supervision,
    masked_autoencoder,
)
from edgekd.algorithms.feature_shapes import tokens_of_map
from edgekd.algorithms.label_augmentation import JointHead, rotations
from edgekd.algorithms.token_mask import (
    TokenMask,
    hide_patches,
    patches,
    random_mask,
    visible_tokens,
)
from edgekd.distillation.pairing import square_side
from edgekd.distillation.term import Answers, Pairing, Shape, Side, Term, View

TURNED = View(lambda images: (rotations(images), None), teacher=False)


def label_augmentation_term(options: settings.LabelAugmentation, pair: Pairing) -> Term:
    """Return the term of ``label_augmentation_distillation_loss``, its head on the last feature."""
    _square(pair)
    heads = _heads(pair.student, last=True)

    def compare(seen: Answers) -> Tensor:
        return label_augmentation.label_augmentation_distillation_loss(
            seen.outputs[0][:: label_augmentation.ROTATIONS],
            heads[0](seen.features[-1]),
            labels=seen.known_labels,
            temperature=options.temperature,
        )

    return Term(label_augmentation.NEEDS, compare, heads, view=TURNED)


def layered_term(options: settings.Layered, pair: Pairing) -> Term:
    """Return the term of ``layered_loss``, with a branch behind each stage."""
    _square(pair)
    heads = _heads(pair.student)

    def compare(seen: Answers) -> Tensor:
        return layered_self_supervision.layered_loss(
            seen.outputs[0][:: label_augmentation.ROTATIONS],
            [head(x) for head, x in zip(heads, seen.features, strict=True)],
            labels=seen.known_labels,
            temperature=options.temperature,
            branch_weight=options.branch_weight,
            logit_weight=options.logit_weight,
        )

    return Term(layered_self_supervision.NEEDS, compare, heads, view=TURNED)


def hierarchical_term(options: settings.Hierarchical, pair: Pairing) -> Term:
    """Return the term of ``hierarchical_loss``; the teacher's branches learn at the same time.

    The source trains them, and the whole teacher with them, before. No gradient of what the student
    learns reaches them, nor one of theirs the teacher.
    """
    _square(pair)
    own, others = _heads(pair.student), _heads(pair.teacher, classes=pair.student.classes)

    def compare(seen: Answers) -> Tensor:
        labels = seen.known_labels
        taught = [head(x) for head, x in zip(others, seen.teacher_features, strict=True)]
        learnt = hierarchical_self_supervision.hierarchical_loss(
            seen.outputs[0],
            seen.teacher_outputs[0],
            student_branches=[head(x) for head, x in zip(own, seen.features, strict=True)],
            teacher_branches=[logits.detach() for logits in taught],
            labels=labels,
            temperature=options.temperature,
        )
        return learnt + hierarchical_self_supervision.branch_loss(taught, labels=labels)

    needs = hierarchical_self_supervision.NEEDS
    return Term(needs, compare, nn.ModuleList([own, others]), view=replace(TURNED, teacher=True))


def masked_autoencoder_term(options: settings.MaskedAutoencoder, pair: Pairing) -> Term:
    """Return the term of ``reconstruction_loss`` and ``alignment_loss`` on images with holes.

    The source leaves hidden patches out; an exported graph has all of them, so that here they are
    painted over (``hide_patches``), for student and teacher alike. A patch is what one place of the
    student's feature stands for.
    """
    if options.width % options.heads:
        raise ValueError(f"'heads: {options.heads}' cannot share a 'width' of {options.width}")
    channels, height, width = _image(pair)
    (side, special, own), (other_side, other_special, other) = (
        _grid(part.features[-1]) for part in (pair.student, pair.teacher)
    )
    if side != other_side or special != other_special:
        raise ValueError(
            f"it compares place by place, and there are {side} x {side} in the student and "
            f"{other_side} x {other_side} in the teacher; name 'layers' with as many"
        )
    if height != width or height % side:
        raise ValueError(f"images of {height} x {width} do not split into {side} x {side} patches")
    size = height // side
    project = nn.Identity() if own == other else nn.Linear(own, other)
    decoder = masked_autoencoder.PatchDecoder(
        own,
        channels * size**2,
        side**2,
        width=options.width,
        blocks=options.blocks,
        heads=options.heads,
        special=special,
    )

    def hide(images: Tensor) -> tuple[Tensor, TokenMask]:
        mask = random_mask(len(images), side**2, options.ratio, torch.default_generator)
        return hide_patches(images, mask, size), mask

    def compare(seen: Answers) -> Tensor:
        mask, images = seen.context, seen.images
        assert isinstance(mask, TokenMask)
        assert images is not None
        shown, reference = (
            _visible(x, mask, special) for x in (seen.features[-1], seen.teacher_features[-1])
        )
        rebuilt = masked_autoencoder.reconstruction_loss(
            decoder(shown, mask), patches(images, size), mask.masked
        )
        return rebuilt + masked_autoencoder.alignment_loss(project(shown), reference)

    trained = nn.ModuleList([project, decoder])
    return Term(masked_autoencoder.NEEDS, compare, trained, view=View(hide, teacher=True))


def _visible(feature: Tensor, mask: TokenMask, special: int) -> Tensor:
    """Return the tokens of what was not hidden, behind those that belong to no place."""
    tokens = tokens_of_map(feature) if feature.ndim == 4 else feature
    return torch.cat([tokens[:, :special], visible_tokens(tokens[:, special:], mask)], 1)


def _grid(shape: Shape) -> tuple[int, int, int]:
    """Return the side of a square of places, how many tokens stand in front, and the channels."""
    if len(shape) == 3 and shape[1] == shape[2]:
        return shape[1], 0, shape[0]
    if len(shape) == 2 and (side := square_side(shape[0])) is not None:
        return side, shape[0] - side**2, shape[1]
    raise ValueError(
        f"it needs square maps, or tokens that fill a square, and there is a feature of shape "
        f"{shape}"
    )


def _heads(side: Side, *, classes: int | None = None, last: bool = False) -> nn.ModuleList:
    shapes = side.features[-1:] if last else side.features
    channels = [shape[1] if len(shape) == 2 else shape[0] for shape in shapes]
    return nn.ModuleList(JointHead(c, max(classes or side.classes, 1)) for c in channels)


def _image(pair: Pairing) -> tuple[int, int, int]:
    if pair.image is None:
        raise ValueError(
            "it changes images, and the model's input is not one image (channels, height, width) a "
            "sample in batches of any size"
        )
    channels, height, width = pair.image
    return channels, height, width


def _square(pair: Pairing) -> None:
    _, height, width = _image(pair)
    if height != width:
        raise ValueError(f"it turns images, and those of {height} x {width} are not square")
