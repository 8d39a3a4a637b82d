"""The losses on features one by one or sample by sample, with the projectors they need."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edgekd import loss_settings as settings
from edgekd.algorithms import (
    attention_transfer,
    channel_wise_loss,
    hint_loss,
    mutual_information,
    relational_loss,
)
from edgekd.algorithms import squarehead as square
from edgekd.distillation.feature_tensors import (
    as_map,
    channels_of,
    map_shape,
    mean,
    projected,
    unless_few,
)
from edgekd.distillation.term import Answers, Pairing, Term


def hint(_: settings.Hint, pair: Pairing) -> Term:
    """Return the term of ``hint_loss``, the mean over the layers."""
    projectors, brought = projected(pair)
    return Term(
        hint_loss.NEEDS,
        lambda seen: mean([hint_loss.hint_loss(*both) for both in brought(seen)]),
        projectors,
    )


def squarehead(_: settings.SquareHead, pair: Pairing) -> Term:
    """Return the term of ``squarehead_loss``."""
    projectors, brought = projected(pair)

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

    return Term(relational_loss.NEEDS, unless_few(3, both))


def mutual_information_term(options: settings.MutualInformation, pair: Pairing) -> Term:
    """Return the term of ``MutualInformationLoss``."""
    loss = mutual_information.MutualInformationLoss(
        channels_of(pair.student.features[-1]),
        channels_of(pair.teacher.features[-1]),
        alpha=options.alpha,
        hidden=options.hidden,
        out=options.out,
    )
    return Term(mutual_information.NEEDS, unless_few(3, loss), loss)


def channel_wise(options: settings.ChannelWise, pair: Pairing) -> Term:
    """Return the term of ``channel_wise_loss``, the mean over the layers."""
    for shape in (*pair.student.features, *pair.teacher.features):
        if math.prod(map_shape(shape)[1:]) < 2:
            raise ValueError("a map of one place says nothing about where a channel is active")
    projectors, brought = projected(pair)

    def compare(seen: Answers) -> Tensor:
        pairs = brought(seen)
        losses = [
            channel_wise_loss.channel_wise_loss(*both, temperature=options.temperature)
            for both in pairs
        ]
        return mean(losses)

    return Term(channel_wise_loss.NEEDS, compare, projectors)
