"""The distill stage: a network, of any architecture, learns from the original."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import fx, nn

from edgekd.distillation.label_losses import label_loss
from edgekd.distillation.losses import build_term, check_needs, places_of
from edgekd.distillation.term import Pairing, Shape, Side, Term
from edgekd.errors import StageError
from edgekd.graph.devices import move
from edgekd.graph.float_form import float_form
from edgekd.graph.program import divide_first_output, refresh
from edgekd.graph.taps import Tap
from edgekd.loss_settings import LossSettings
from edgekd.processes.group import by_first
from edgekd.progress import Progress
from edgekd.stages.adaptive_samples import adapting
from edgekd.stages.distill_default import losses_of, may_compare_features
from edgekd.stages.distill_facts import facts
from edgekd.stages.distill_loss import Learning, answers_of, stage_loss
from edgekd.stages.distill_parts import Parts, judge_of, parts_of
from edgekd.stages.distill_prepare import prepare_terms
from edgekd.stages.distill_teachers import panel_of, teachers_of
from edgekd.stages.distillation_loss import folded
from edgekd.stages.fade import Fade
from edgekd.stages.known_answers import known_answers
from edgekd.stages.label_share import check_label_share, find_label_share, with_label_share
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
    of_labels = weights_of(options)[1] > 0
    if of_labels and label_loss(_side(state, ())) is None:
        raise StageError(
            "distill: 'label_weight' needs class logits with integer labels that index them (for "
            "maps, at each pixel), or targets of floats, as many as the first output has; set it "
            "to 0"
        )
    if options.original_weight == 0 and len(state.spec.outputs) > 1 and options.losses != ():
        raise StageError(
            "distill: with 'original_weight: 0' only files teach, of which the first output alone "
            f"is used, and the model has {len(state.spec.outputs)}; leave 'original_weight' out"
        )
    check_label_share(state, options, _teacher(state, options))
    learning = pair_of(state, with_label_share(options, 0.5)).learning
    labels = of_labels or any("labels" in t.needs for t, _ in learning.terms)
    if state.dense and labels and options.augment != "none":
        raise StageError(
            f"distill: 'augment: {options.augment}' moves images and not the labels of their "
            "pixels; set it to none, or learn without labels"
        )
    if options.teacher_temperature != 1 and not state.classification:
        raise StageError("distill: 'teacher_temperature' is for class logits; leave it out")
    if options.teacher_temperature != 1 and options.original_weight == 0:
        raise StageError(
            "distill: 'teacher_temperature' is the original's, which does not teach with "
            "'original_weight: 0', as for an ONNX model; leave it out"
        )


def describe(options: DistillStage) -> str:
    """Say in one line what the stage will do."""
    who = f"the student of {options.student} (this runs its code)" if options.student else "it"
    if options.student and options.student_weights:
        who += f" with the weights of {options.student_weights}"
    names = [str(entry.loss) for entry in options.losses or ()]
    if options.losses is None:
        names = ["its outputs"]
        if may_compare_features(options):
            names.append("features if their kinds fit")
    if weights_of(options)[1] > 0:
        names.append("labels")
    others = f" and {len(options.teachers)} more" if options.teachers else ""
    teachers = f"{'what it is now' if options.teacher == 'previous' else 'the original'}{others}"
    if options.original_weight == 0:
        teachers = ", ".join(Path(teacher.file).name for teacher in options.teachers)
    part = {"head": "the head of ", (): ""}.get(options.train_only, "a part of ")
    return f"{part}{who} learns from {teachers} by {', '.join(names)}, {options.epochs} epochs"


@dataclass(frozen=True)
class Pair:
    """Both networks in float form, what is compared, and what of the student is trained."""

    student: fx.GraphModule
    teacher: fx.GraphModule
    losses: Sequence[LossSettings]
    learning: Learning
    parts: Parts


def run(given: CompressionState, options: DistillStage, progress: Progress) -> CompressionState:
    """Return the state with the trained student in place of the model."""
    state = given
    with seeded(state.seed, device := training_device()):
        own = _teacher(state, options)
        found = partial(find_label_share, state, options, own, progress, device)
        options, share = by_first(found)
        pair = pair_of(state, options)
        move(pair.student, device)
        move(pair.teacher, device)
        panel = panel_of(state, options, folded(pair.teacher), device)
        teachers = answers_of(pair.teacher, Learning((), 0.0, _side(state, ()), panel=panel))
        state = chosen_samples(
            state, options, pair.student, teachers, progress, device=device, title=TITLE
        )
        if state.data is not given.data:
            pair = pair_of(state, options)  # the number of steps follows from the samples
        student, teacher = pair.student, pair.teacher
        learning = replace(pair.learning, panel=panel)
        schedule = schedule_of(state, options, student)
        beside = nn.ModuleList(t.trained for t, _ in learning.terms if t.trained is not None)
        beside.to(device)
        move(student, device)
        move(teacher, device)
        prepare_terms(state, teacher, learning, device)
        judge = judge_of(options, learning, student, teacher)
        fade = Fade(schedule.steps, on=options.fade)
        learning = replace(learning, factor=fade)

        def loss_in(*, training: bool) -> Loss:
            return stage_loss(
                student,
                teacher,
                learning if training else judge.learning,
                training=training,
                mixed=options.mixed_precision,
                frozen=pair.parts.frozen,
            )

        def after_step(step: int) -> None:
            fade.after_step(step)
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
            parts={"randomness": Randomness(device), "fade": fade},
            after_step=after_step,
            before_training=pair.parts.starter(student, state.seed),
            undo=judge.by is not None,
            frozen=pair.parts.frozen,
            views=options.stored_views,
            adapt=adapting(state, options, student, teachers, device),
        )
    return replace(state, data=given.data).with_model(
        refresh(student, state.example),
        **details,
        student=facts(
            options,
            pair.losses,
            learning,
            samples=len(state.data.train),
            original=_original(state),
            student=student,
            parts=pair.parts,
            judge=judge,
            label_share=share,
        ),
    )


def _original(state: CompressionState) -> fx.GraphModule:
    return state.teacher if state.original is None else state.original


def _teacher(state: CompressionState, options: DistillStage) -> fx.GraphModule:
    return state.model if options.teacher == "previous" else _original(state)


def pair_of(state: CompressionState, options: DistillStage) -> Pair:
    """Build everything that is compared; raises StageError for a wrong pairing."""
    start = state.model
    if options.student is not None:
        assert state.student is not None  # the job has built it
        start = state.student
    student = float_form(start, state.example)
    teacher = float_form(_teacher(state, options), state.example)
    steps = schedule_of(state, options, student).steps
    terms: list[tuple[Term, float]] = []
    taps: dict[tuple[str, str], int] = {}  # to the place among all that are compared
    parts: list[tuple[int, ...]] = []
    losses = losses_of(state, options, student, teacher)
    for index, entry in enumerate(losses):
        try:
            places = places_of(entry, student, teacher)
            if places and options.original_weight == 0:
                raise ValueError(
                    "it compares tensors in between, and with 'original_weight: 0', as for an ONNX "
                    "model, only files teach, of which nothing but outputs is known; use losses on "
                    "outputs"
                )
            pair = Pairing(
                _side(state, [mine.shape for mine, _ in places]),
                _side(state, [theirs.shape for _, theirs in places]),
                steps,
                _image(state),
                itself=options.student is None,
            )
            term = build_term(entry, pair)
            check_needs(term, pair, teachers=teachers_of(options))
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
        _side(state, ()),
        compared,
        parts,
    )
    divide_first_output(teacher, options.teacher_temperature)
    return Pair(student, teacher, losses, learning, parts_of(student, options))


def _image(state: CompressionState) -> Shape | None:
    batch, *rest = state.spec.inputs[0].shape
    if len(state.spec.inputs) > 1 or batch is not None or len(rest) != 3:
        return None
    return tuple(state.example[0].shape[1:])


def _side(state: CompressionState, features: Sequence[Shape]) -> Side:
    outputs = tuple(tuple(n or 1 for n in tensor.shape[1:]) for tensor in state.spec.outputs)
    return Side(
        outputs[0][-1] if state.classification else 0,
        outputs,
        tuple(features),
        pixel_classes=outputs[0][0] if state.dense else 0,
        regression=state.regression,
    )
