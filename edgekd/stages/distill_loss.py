"""What a batch costs in the distill stage: every term that the recipe names, and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
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
    ``slices`` says which of them belong to which term.
    """

    terms: Sequence[tuple[Term, float]]
    label_weight: float
    classification: bool
    taps: Sequence[Tap] = ()
    slices: Sequence[slice] = ()
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
    reference = folded(with_outputs(teacher, [tap.teacher for tap in taps]))
    axes, reference_axes = sample_axes(learner), sample_axes(reference)
    own = len(output_nodes(student))
    names = [node.name for node in student.graph.nodes if node.op == "placeholder"]
    compare = kl_judge if learning.classification else relative_mse_loss

    @torch.no_grad()
    def ask(inputs: Inputs) -> list[Tensor]:
        answers = shared(partial(run, reference), inputs, reference_axes)
        return [learning.panel.combine(answers[0], inputs), *answers[1:]]

    def loss(inputs: Inputs, targets: Tensor | None) -> Tensor:
        inputs, known = inputs[: len(names)], inputs[len(names) :]
        with autocast(inputs[0].device, training and mixed):
            found = shared(partial(run, learner), inputs, axes)
            expected = list(known)
            if learning.terms and not known:
                expected = ask(inputs)
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
            part = learning.slices[index] if learning.slices else slice(0, 0)
            seen, reference_seen = found[own:][part], expected[own:][part]
            value = term(found[:own], seen, expected[:own], reference_seen, targets, valid)
            parts.append(weight * value)
        return torch.stack(parts).sum() if parts else found[0].sum() * 0.0

    return loss


def kl_judge(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the divergence that decides whether a training is kept."""
    return kl_loss(student, teacher, JUDGE_TEMPERATURE)
