"""The losses of heads and branches beside the student that give answers of their own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgekd import loss_settings as settings
from edgekd.algorithms import dual_head, one_for_all
from edgekd.algorithms.feature_shapes import pooled
from edgekd.algorithms.logit_branch import MapBranch, TokenBranch
from edgekd.distillation.feature_tensors import channels_of, map_shape
from edgekd.distillation.term import Answers, Pairing, Shape, Term


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
