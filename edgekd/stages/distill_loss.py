"""What a batch costs in the distill stage: every term that the recipe names, and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, fx

from edgekd.algorithms.cross_entropy import label_cross_entropy
from edgekd.algorithms.kd_loss import kl_loss, relative_mse_loss
from edgekd.distillation.teachers import Panel
from edgekd.distillation.term import Term
from edgekd.graph.batchnorm_mode import train_batch_norm
from edgekd.graph.batchnorm_sync import synchronise_batch_norm
from edgekd.graph.program import output_nodes, sample_axes
from edgekd.graph.taps import Tap, with_outputs
from edgekd.processes.sharing import shared
from edgekd.stages.distillation_loss import folded, run, valid_tokens
from edgekd.training import Inputs, Loss, autocast

JUDGE_TEMPERATURE = 4.0


@dataclass(frozen=True)
class Learning:
    """What the student learns by.

    ``terms`` have their weights beside them. ``taps`` are the tensors in between that they compare;
    ``parts`` says which of them belong to which term.
    """

    terms: Sequence[tuple[Term, float]]
    label_weight: float
    classification: bool
    taps: Sequence[Tap] = ()
    parts: Sequence[tuple[int, ...]] = ()
    panel: Panel = field(default_factory=lambda: Panel((), 1.0, True))


def stage_loss(
    student: fx.GraphModule,
    teacher: fx.GraphModule,
    learning: Learning,
    *,
    training: bool,
    mixed: bool = False,
) -> Loss:
    """Return the loss of a batch.

    In ``training`` it is the sum of all terms, with the batch norms of the student on the
    statistics of the batch. Otherwise it judges the student as it is deployed: by the outputs alone
    (``kl`` or ``mse``, if anything is to be learnt from the teacher) and the labels, since terms
    may change their target while they train. Outputs behind the first are compared as numbers.
    Several processes share out the networks' work; all of them compute the loss of the whole batch.
    """
    taps = learning.taps if training else ()
    learner = with_outputs(student, [tap.student for tap in taps])
    synchronise_batch_norm(train_batch_norm(learner, training))
    axes = sample_axes(learner)
    ask = answers_of(teacher, replace(learning, taps=taps))
    own = len(output_nodes(student))
    names = [node.name for node in student.graph.nodes if node.op == "placeholder"]
    compare = kl_judge if learning.classification else relative_mse_loss

    def loss(inputs: Inputs, targets: Tensor | None) -> Tensor:
        inputs, known = inputs[: len(names)], inputs[len(names) :]
        with autocast(inputs[0].device, training and mixed):
            found = shared(partial(run, learner), inputs, axes)
            expected = list(known)
            if learning.terms and not known:
                expected = list(ask(*inputs))
        parts: list[Tensor] = []
        if learning.label_weight > 0 and targets is not None:
            parts.append(learning.label_weight * label_cross_entropy(found[0], targets))
        if learning.terms:
            pairs = zip(found[1:own], expected[1:own], strict=True)
            parts += [relative_mse_loss(*pair) for pair in pairs]
            if not training:
                parts.append(compare(found[0], expected[0]))
        valid = valid_tokens(names, inputs)
        for index, (term, weight) in enumerate(learning.terms if training else ()):
            part = learning.parts[index] if learning.parts else ()
            seen, reference_seen = (
                [tensors[own + i] for i in part] for tensors in (found, expected)
            )
            value = term(found[:own], seen, expected[:own], reference_seen, targets, valid)
            parts.append(weight * value)
        return torch.stack(parts).sum() if parts else found[0].sum() * 0.0

    return loss


@dataclass(frozen=True)
class AskTeachers:
    """What all teachers answer together, and behind that the original's features.

    Several processes share out the original's work.
    """

    own: fx.GraphModule
    panel: Panel

    @torch.no_grad()
    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return float32 outputs, then features, for a batch of inputs."""
        first, *others = shared(partial(run, self.own), inputs, sample_axes(self.own))
        return self.panel.combine(first, inputs), *others


def answers_of(teacher: fx.GraphModule, learning: Learning) -> AskTeachers:
    """Return what the student learns from: the teachers' outputs, and what ``taps`` name."""
    tapped = with_outputs(teacher, [tap.teacher for tap in learning.taps])
    return AskTeachers(folded(tapped), learning.panel)


def kl_judge(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the divergence that decides whether a training is kept."""
    return kl_loss(student, teacher, JUDGE_TEMPERATURE)
