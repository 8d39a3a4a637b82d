"""What a batch costs in the distill stage: every term that the recipe names, and labels."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, fx

from edgekd.algorithms.dense_kl import dense_kl
from edgekd.algorithms.kd_loss import kl_loss, relative_mse_loss
from edgekd.distillation.label_losses import label_loss
from edgekd.distillation.teachers import Panel
from edgekd.distillation.term import Answers, Side, Term, View
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
    ``parts`` says which of them belong to which term. ``side`` says what the outputs are. All terms
    count times ``factor`` at the step that is being done.
    """

    terms: Sequence[tuple[Term, float]]
    label_weight: float
    side: Side
    taps: Sequence[Tap] = ()
    parts: Sequence[tuple[int, ...]] = ()
    panel: Panel = field(default_factory=lambda: Panel((), 1.0, True))
    factor: Callable[[], float] = lambda: 1.0

    @property
    def each_teacher(self) -> bool:
        """Tell whether a term needs every teacher's own answer."""
        return any(term.each_teacher for term, _ in self.terms)


def stage_loss(
    student: fx.GraphModule,
    teacher: fx.GraphModule,
    learning: Learning,
    *,
    training: bool,
    mixed: bool = False,
    frozen: Collection[str] = (),
) -> Loss:
    """Return the loss of a batch.

    In ``training`` it is the sum of all terms, with the batch norms of the student on the
    statistics of the batch, but for those that are ``frozen``. Otherwise it judges the student as
    it is deployed: by the outputs alone (``kl`` or ``mse``, if anything is to be learnt from the
    teacher) and the labels, since terms may change their target while they train. Outputs behind
    the first are compared as numbers, unless a term is one on all outputs, which then also judges.
    Several processes share out the networks' work; all of them compute the loss of the whole batch.
    """
    taps = learning.taps if training else ()
    learner = with_outputs(student, [tap.student for tap in taps])
    synchronise_batch_norm(train_batch_norm(learner, training, frozen=frozen))
    axes = sample_axes(learner)
    ask = answers_of(teacher, replace(learning, taps=taps))
    own = len(output_nodes(student))
    each = len(learning.panel.others) + learning.panel.asks_original
    each = each if learning.each_teacher else 0
    judges = [(term.judge, weight) for term, weight in learning.terms if term.judge is not None]
    of_labels = label_loss(learning.side)
    terms = learning.terms
    plain = any(term.view is None for term, _ in terms) or bool(terms and (own > 1 or not training))
    names = [node.name for node in student.graph.nodes if node.op == "placeholder"]
    compare = judge_of(learning.side)

    def loss(inputs: Inputs, targets: Tensor | None) -> Tensor:
        inputs, known = inputs[: len(names)], inputs[len(names) :]
        with autocast(inputs[0].device, training and mixed):
            found = shared(partial(run, learner), inputs, axes)
            expected = list(known)
            if plain and not known:
                expected = list(ask(*inputs))
            views = [
                _look(term.view, inputs[0], learner, axes, ask)
                for term, _ in (learning.terms if training else ())
            ]
        parts: list[Tensor] = []
        if learning.label_weight > 0 and targets is not None and of_labels is not None:
            parts.append(learning.label_weight * of_labels(found[0], targets))
        if plain and not judges:
            pairs = zip(found[1:own], expected[1:own], strict=True)
            parts += [relative_mse_loss(*pair) for pair in pairs]
            if not training:
                parts.append(compare(found[0], expected[0]))
        elif not training:
            answers = Answers(found[:own], (), expected[:own], (), targets)
            parts += [weight * judge(answers) for judge, weight in judges]
        valid = valid_tokens(names, inputs)
        for index, (term, weight) in enumerate(learning.terms if training else ()):
            seen, shown, context = views[index] or (found, expected, None)
            part = learning.parts[index] if learning.parts else ()
            answers = Answers(
                seen[:own],
                [seen[own + i] for i in part],
                shown[:own],
                [shown[own + each + i] for i in part] if shown else (),
                targets,
                valid,
                shown[own : own + each],
                inputs[0],
                context,
            )
            parts.append(learning.factor() * weight * term.compare(answers))
        return torch.stack(parts).sum() if parts else found[0].sum() * 0.0

    return loss


def _look(
    view: View | None,
    images: Tensor,
    learner: fx.GraphModule,
    axes: Sequence[int],
    ask: AskTeachers,
) -> tuple[list[Tensor], list[Tensor], object] | None:
    """Return what both networks say of a view, and what it made beside; None without one."""
    if view is None:
        return None
    changed, context = view.make(images)
    taught = list(ask(changed)) if view.teacher else []
    return shared(partial(run, learner), (changed,), axes), taught, context


def judge_of(side: Side) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the comparison of first outputs that decides whether a training is kept."""
    if side.pixel_classes:
        return partial(dense_kl, temperature=JUDGE_TEMPERATURE)
    return kl_judge if side.classes else relative_mse_loss


@dataclass(frozen=True)
class AskTeachers:
    """What all teachers answer together, and behind that the original's features.

    In between is every teacher's own first output, if ``each``. ``features`` is how many of the
    outputs of ``own`` are features. An original that does not teach is not run.
    Several processes share out the original's work.
    """

    own: fx.GraphModule
    panel: Panel
    features: int = 0
    each: bool = False

    @torch.no_grad()
    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return float32 outputs, then features, for a batch of inputs."""
        found: list[Tensor] = []
        if self.panel.asks_original:
            found = shared(partial(run, self.own), inputs, sample_axes(self.own))
        answers = self.panel.ask(found, inputs)
        first, each = self.panel.combine(answers), answers if self.each else ()
        split = len(found) - self.features
        return first, *found[1:split], *each, *found[split:]


def answers_of(teacher: fx.GraphModule, learning: Learning) -> AskTeachers:
    """Return what the student learns from: the teachers' outputs, and what ``taps`` name."""
    tapped = with_outputs(teacher, [tap.teacher for tap in learning.taps])
    return AskTeachers(folded(tapped), learning.panel, len(learning.taps), learning.each_teacher)


def kl_judge(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the divergence that decides whether a training is kept."""
    return kl_loss(student, teacher, JUDGE_TEMPERATURE)
