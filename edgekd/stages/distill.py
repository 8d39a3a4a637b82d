"""The distill stage: a network, of any architecture, learns from the original."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from edgekd.algorithms.several_teachers import entropy_temperatures
from edgekd.data.loader import batches
from edgekd.distillation.losses import build_term, check_needs, places_of
from edgekd.distillation.teachers import Panel
from edgekd.distillation.term import Pairing, Shape, Side, Term
from edgekd.errors import StageError
from edgekd.graph.devices import move
from edgekd.graph.float_form import float_form
from edgekd.graph.program import output_tensors, refresh
from edgekd.graph.taps import Tap
from edgekd.loss_settings import Kl, LossSettings, RelativeMse
from edgekd.progress import Progress
from edgekd.stages.adaptive_samples import adapting
from edgekd.stages.distill_loss import Learning, answers_of, stage_loss
from edgekd.stages.distillation_loss import folded
from edgekd.stages.known_answers import known_answers
from edgekd.stages.randomness import Randomness, seeded
from edgekd.stages.train_student import schedule_of, train_student
from edgekd.stages.training_samples import check_samples, chosen_samples, weights_of
from edgekd.state import CompressionState
from edgekd.training import Loss, training_device
from edgekd.training_settings import DistillStage

TITLE = "distill: training"


def requires(state: CompressionState, options: DistillStage) -> None:
    """Refuse before any work what cannot be compared on these two networks and this data."""
    check_samples(state, options)
    if weights_of(options)[1] > 0 and not state.classification:
        raise StageError(
            "distill: 'label_weight' needs class logits with integer labels that index them; set "
            "it to 0"
        )
    _prepare(state, options)


def describe(options: DistillStage) -> str:
    """Say in one line what the stage will do."""
    who = f"the student of {options.student} (this runs its code)" if options.student else "it"
    if options.student and options.student_weights:
        who += f" with the weights of {options.student_weights}"
    names = [str(entry.loss) for entry in options.losses or ()]
    if options.losses is None:
        names = ["its outputs"]
    if weights_of(options)[1] > 0:
        names.append("labels")
    others = f" and {len(options.teachers)} more" if options.teachers else ""
    return f"{who} learns from the original{others} by {', '.join(names)}, {options.epochs} epochs"


@dataclass(frozen=True)
class _Pair:
    """Both networks in float form, and what is compared."""

    student: fx.GraphModule
    teacher: fx.GraphModule
    learning: Learning


def run(given: CompressionState, options: DistillStage, progress: Progress) -> CompressionState:
    """Return the state with the trained student in place of the model."""
    state = given
    device = training_device()
    with seeded(state.seed, device):
        pair = _prepare(state, options)
        move(pair.student, device)
        move(pair.teacher, device)
        panel = _panel(state, options, folded(pair.teacher), device)
        teachers = answers_of(pair.teacher, Learning((), 0.0, True, panel=panel))
        state = chosen_samples(
            state, options, pair.student, teachers, progress, device=device, title=TITLE
        )
        if state.data is not given.data:
            pair = _prepare(state, options)  # the number of steps follows from the samples
        student, teacher = pair.student, pair.teacher
        learning = replace(pair.learning, panel=panel)
        parameters = sum(p.numel() for p in student.parameters())
        schedule = schedule_of(state, options, student)
        beside = nn.ModuleList(t.trained for t, _ in learning.terms if t.trained is not None)
        beside.to(device)
        move(teacher, device)

        def loss_in(*, training: bool) -> Loss:
            return stage_loss(
                student, teacher, learning, training=training, mixed=options.mixed_precision
            )

        def after_step(_: int) -> None:
            for term, _weight in learning.terms:
                if term.after_step is not None:
                    term.after_step()

        known = None
        if learning.terms:
            known = known_answers(
                state,
                options,
                answers_of(teacher, learning),
                schedule,
                progress,
                device,
                title=TITLE,
            )
        details = train_student(
            state,
            student,
            options,
            schedule,
            loss_in,
            progress,
            title=TITLE,
            known=known,
            device=device,
            beside=beside,
            parts={"randomness": Randomness(device)},
            after_step=after_step,
            # New weights cannot be worse than none; trained ones are worth keeping.
            undo=options.student is None or options.student_weights is not None,
            views=options.stored_views,
            adapt=adapting(state, options, student, teachers, device),
        )
    return replace(state, data=given.data).with_model(
        refresh(student, state.example),
        **details,
        student=_facts(state, options, learning, parameters, beside),
    )


def _facts(
    state: CompressionState,
    options: DistillStage,
    learning: Learning,
    parameters: int,
    beside: nn.Module,
) -> dict[str, Any]:
    original = _original(state)
    return {
        "factory": None if options.student is None else options.student.rpartition("/")[2],
        "own_weights": options.student_weights is not None,
        "losses": [entry.model_dump(mode="json") for entry in _losses(state, options)],
        "label_weight": weights_of(options)[1],
        "training_samples": len(state.data.train),
        "teachers": 1 + len(options.teachers),
        "parameters": [sum(p.numel() for p in original.parameters()), parameters],
        "compared": [[tap.student, tap.teacher] for tap in learning.taps],
        "training_only_parameters": sum(p.numel() for p in beside.parameters()),
    }


def _original(state: CompressionState) -> fx.GraphModule:
    return state.teacher if state.original is None else state.original


def _losses(state: CompressionState, options: DistillStage) -> Sequence[LossSettings]:
    if options.losses is not None:
        return options.losses
    return (Kl(loss="kl"),) if state.classification else (RelativeMse(loss="mse"),)


def _prepare(state: CompressionState, options: DistillStage) -> _Pair:
    """Build everything that is compared; raises StageError for a wrong pairing."""
    start = state.model
    if options.student is not None:
        assert state.student is not None  # the job has built it
        start = state.student
    student = float_form(start, state.example)
    teacher = float_form(_original(state), state.example)
    steps = schedule_of(state, options, student).steps
    terms: list[tuple[Term, float]] = []
    taps: dict[tuple[str, str], int] = {}  # to the place among all that are compared
    parts: list[tuple[int, ...]] = []
    for index, entry in enumerate(_losses(state, options)):
        try:
            places = places_of(entry, student, teacher)
            pair = Pairing(
                _side(state, [mine.shape for mine, _ in places]),
                _side(state, [theirs.shape for _, theirs in places]),
                steps,
            )
            term = build_term(entry, pair)
            check_needs(term, pair, teachers=1 + len(options.teachers))
        except ValueError as error:
            raise StageError(f"distill: losses[{index}] '{entry.loss}': {error}") from None
        terms.append((term, entry.weight))
        names = [(mine.node, theirs.node) for mine, theirs in places]
        parts.append(tuple(taps.setdefault(name, len(taps)) for name in names))
    compared = [Tap(*pair) for pair in taps]
    share, labels = weights_of(options)
    learning = Learning(
        [(term, share * weight) for term, weight in terms],
        labels,
        state.classification,
        compared,
        parts,
    )
    return _Pair(student, teacher, learning)


def _side(state: CompressionState, features: Sequence[Shape]) -> Side:
    outputs = tuple(tuple(n or 1 for n in tensor.shape[1:]) for tensor in state.spec.outputs)
    classes = outputs[0][-1] if state.classification else 0
    return Side(classes, outputs, tuple(features))


@torch.no_grad()
def _panel(
    state: CompressionState, options: DistillStage, own: fx.GraphModule, device: torch.device
) -> Panel:
    """Return all teachers, with temperatures from the calibration samples where asked for."""
    boxes = {box.file: box for box in state.others}
    others = [(boxes[entry.file], entry.weight) for entry in options.teachers]
    panel = Panel(others, options.original_weight, state.classification)
    if not (options.balance_teachers and others and state.classification):
        return panel
    answers: list[list[Tensor]] = []
    for inputs, _ in batches(state.data, state.data.calibration, state.spec, 64):
        first = output_tensors(own(*(x.to(device) for x in inputs)))[0].cpu()
        answers.append([first, *(box.predict(inputs) for box, _ in others)])
    logits = [torch.cat(parts) for parts in zip(*answers, strict=True)]
    return replace(panel, temperatures=entropy_temperatures(logits))
