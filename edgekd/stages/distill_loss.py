"""What a batch costs in the distill stage: every term that the recipe names, and labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx

from edgekd.algorithms.cross_entropy import label_cross_entropy
from edgekd.algorithms.kd_loss import kl_loss, relative_mse_loss
from edgekd.distillation.teachers import Panel
from edgekd.distillation.term import Term, Viewed
from edgekd.graph.batchnorm_mode import train_batch_norm
from edgekd.graph.program import output_nodes
from edgekd.graph.taps import Tap, with_outputs
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

    @property
    def on_plain_batches(self) -> bool:
        """Whether a term compares with the teacher's answers to the batch as it is."""
        return any(term.view is None for term, _ in self.terms)

    @property
    def features_of_plain_batches(self) -> bool:
        """Whether such a term compares tensors in between."""
        pairs = zip(self.terms, self.slices, strict=True) if self.slices else ()
        return any(term.view is None and part.start < part.stop for (term, _), part in pairs)


@dataclass(frozen=True)
class _Look:
    """What both networks say of a view."""

    found: list[Tensor]
    expected: list[Tensor]
    viewed: Viewed


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

    The networks run once on the plain batch and once on each view that terms ask for.
    """
    taps = learning.taps if training else ()
    learner = with_outputs(student, [tap.student for tap in taps])
    train_batch_norm(learner, training)
    reference = folded(with_outputs(teacher, [tap.teacher for tap in taps]))
    own = len(output_nodes(student))
    names = [node.name for node in student.graph.nodes if node.op == "placeholder"]
    compare = kl_judge if learning.classification else relative_mse_loss

    @torch.no_grad()
    def ask(inputs: Inputs) -> list[Tensor]:
        answers = run(reference, inputs)
        return [learning.panel.combine(answers[0], inputs), *answers[1:]]

    wanted: dict[Callable[[Tensor], Viewed], bool] = {}  # views, and whether the teacher looks too
    for term, _ in learning.terms if training else ():
        if term.view is not None:
            wanted[term.view.of] = wanted.get(term.view.of, False) or term.view.teacher
    asked = bool(learning.terms) and (not training or own > 1 or learning.on_plain_batches)

    def look(of: Callable[[Tensor], Viewed], images: Tensor, *, teacher: bool) -> _Look:
        viewed = of(images)
        found = run(learner, (viewed.images,))
        return _Look(found, ask((viewed.images,)) if teacher else [], viewed)

    def loss(inputs: Inputs, targets: Tensor | None) -> Tensor:
        inputs, known = inputs[: len(names)], inputs[len(names) :]
        with autocast(inputs[0].device, training and mixed):
            found = run(learner, inputs)
            expected = list(known)
            if asked and not known:
                expected = ask(inputs)
            looks = {of: look(of, inputs[0], teacher=both) for of, both in wanted.items()}
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
            mine, theirs, mask = found, expected, None
            if term.view is not None:
                seen = looks[term.view.of]
                mine, theirs, mask = seen.found, seen.expected, seen.viewed.mask
            answers = (mine[:own], mine[own:][part], theirs[:own], theirs[own:][part])
            parts.append(weight * term(*answers, targets, valid, inputs[0], mask))
        return torch.stack(parts).sum() if parts else found[0].sum() * 0.0

    return loss


def kl_judge(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the divergence that decides whether a training is kept."""
    return kl_loss(student, teacher, JUDGE_TEMPERATURE)
