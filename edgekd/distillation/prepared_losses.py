"""The losses that take something from the teacher's answers before the training starts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgekd import loss_settings as settings
from edgekd.algorithms import mcmi, subclasses
from edgekd.algorithms.class_means import class_means
from edgekd.algorithms.feature_shapes import pooled
from edgekd.distillation.feature_tensors import channels_of
from edgekd.distillation.term import Answers, Pairing, Term


class _Split(nn.Module):
    """A head of all subclasses, and the directions that make them, kept in checkpoints."""

    means: Tensor
    directions: Tensor

    def __init__(self, channels: int, teacher_channels: int, classes: int, parts: int) -> None:
        super().__init__()
        self.head = nn.Linear(channels, classes * parts)
        self.register_buffer("means", torch.zeros(classes, teacher_channels))
        self.register_buffer("directions", torch.zeros(classes, teacher_channels, parts))


def subclasses_term(options: settings.Subclasses, pair: Pairing) -> Term:
    """Return the term of ``subclass_loss``, its head on the student's pooled feature.

    What the teacher's output layer sees of an embedding comes from a regression of its logits on
    the embeddings, so that no layer has to be found. Raises ValueError where the embedding is too
    small.
    """
    classes, parts = max(pair.student.classes, 1), options.subclasses
    wide = channels_of(pair.teacher.features[-1])
    if wide - classes < parts:
        raise ValueError(
            f"the teacher's feature of {wide} channels leaves {max(wide - classes, 0)} directions "
            f"beside its {classes} classes; 'subclasses: {parts}' do not fit"
        )
    split = _Split(channels_of(pair.student.features[-1]), wide, classes, parts)

    def prepare(logits: Tensor, labels: Tensor, features: Sequence[Tensor]) -> None:
        embeddings = features[-1].double()
        centred, answers = (
            embeddings - embeddings.mean(0),
            logits.double() - logits.double().mean(0),
        )
        found = subclasses.fit_subclasses(
            embeddings,
            labels,
            (torch.linalg.pinv(centred) @ answers).T,
            subclasses=parts,
            generator=torch.default_generator,
        )
        split.means.copy_(found.means)
        split.directions.copy_(found.directions)

    def compare(seen: Answers) -> Tensor:
        targets = subclasses.subclass_targets(
            subclasses.SubclassDirections(split.means, split.directions),
            pooled(seen.teacher_features[-1]),
            seen.teacher_outputs[0],
            sharpness=options.sharpness,
            temperature=options.temperature,
        )
        return subclasses.subclass_loss(split.head(pooled(seen.features[-1])), targets)

    return Term(subclasses.NEEDS, compare, split, prepare=prepare)


class _Means(nn.Module):
    """What the network predicts on average for each class."""

    means: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("means", torch.full((classes, classes), 1 / classes))


def mcmi_term(options: settings.Mcmi, pair: Pairing) -> Term:
    """Return the term of ``mcmi_loss``; raises ValueError for a student of another network."""
    if not pair.itself:
        raise ValueError(
            "it makes a network a better teacher and teaches no student; leave 'student' out"
        )
    kept = _Means(max(pair.student.classes, 1))

    def prepare(logits: Tensor, labels: Tensor, _: Sequence[Tensor]) -> None:
        kept.means.copy_(class_means(logits, labels))

    def compare(seen: Answers) -> Tensor:
        return mcmi.mcmi_loss(
            seen.outputs[0], seen.known_labels, kept.means, weight=options.information
        )

    return Term(mcmi.NEEDS, compare, kept, prepare=prepare, departs=True)
