"""The loss of distillation as a recipe describes it: which functions, and what they compare."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import assert_never

import torch
from torch import Tensor, fx

from edgekd.algorithms.kd_loss import kl_loss, relative_mse_loss
from edgekd.algorithms.squarehead import squarehead_loss
from edgekd.algorithms.standardized_kl import MIN_CLASSES, standardized_kl
from edgekd.algorithms.top_k_kl import top_k_kl
from edgekd.data.samples import NO_LABEL
from edgekd.errors import StageError
from edgekd.graph.batchnorm import batch_norms, fold_batch_norm
from edgekd.graph.batchnorm_mode import train_batch_norm
from edgekd.graph.batchnorm_sync import synchronise_batch_norm
from edgekd.graph.program import clone, output_nodes, output_tensors, sample_axes
from edgekd.graph.taps import Tap, add_taps, feature_names, with_outputs
from edgekd.processes.sharing import shared
from edgekd.settings import nearest
from edgekd.state import CompressionState
from edgekd.training import Inputs, Loss, autocast
from edgekd.training_settings import Distill

OutputLoss = Callable[[Tensor, Tensor], Tensor]  # of the student's and the teacher's output


def check_loss(state: CompressionState, options: Distill, *, stage: str) -> None:
    """Raise StageError if the model's outputs do not have what the loss compares."""
    needs_classes = {
        f"'distill.loss: {options.loss}'": options.loss not in ("auto", "mse"),
        "'distill.hard_label_weight'": options.hard_label_weight > 0,
    }
    for key, needed in needs_classes.items():
        if needed and not state.classification:
            raise StageError(
                f"{stage}: {key} needs class logits with integer labels that index them; for "
                "other outputs use the loss 'auto' or 'mse' and a hard_label_weight of 0"
            )
    with unknown_layer(stage):
        feature_names(state.model, options.feature_layers)
    classes = _classes(state)
    if options.loss == "standardized-kl" and classes < MIN_CLASSES:
        raise StageError(
            f"{stage}: 'distill.loss: standardized-kl' needs {MIN_CLASSES} classes or more, since "
            f"{classes} standardised logits are always the same numbers; use 'kl'"
        )
    if options.loss == "top-k-kl" and options.top_k >= classes:
        raise StageError(
            f"{stage}: 'distill.top_k: {options.top_k}' leaves out none of the model's {classes} "
            f"classes; give at most {classes - 1}, or use the loss 'kl'"
        )


@contextlib.contextmanager
def unknown_layer(stage: str) -> Iterator[None]:
    """Turn what ``feature_names`` raises for a pattern that fits nothing into a StageError."""
    try:
        yield
    except ValueError as error:
        pattern, paths = error.args
        raise StageError(
            f"{stage}: 'distill.feature_layers': {pattern!r} fits no module of the model that "
            f"computes a float tensor{nearest(pattern, paths)}"
        ) from None


def _classes(state: CompressionState) -> int:
    return int(state.spec.outputs[0].shape[-1] or 0) if state.classification else 0


def output_loss(options: Distill, *, classification: bool) -> OutputLoss:
    """Return the loss that the recipe names, with its settings filled in."""
    match options.loss:
        case "auto":
            named = options.model_copy(update={"loss": "kl" if classification else "mse"})
            return output_loss(named, classification=classification)
        case "kl":
            return partial(kl_loss, temperature=options.temperature)
        case "standardized-kl":
            return partial(standardized_kl, temperature=options.temperature)
        case "top-k-kl":
            return partial(top_k_kl, temperature=options.temperature, k=options.top_k)
        case "mse":
            return relative_mse_loss
        case _:
            assert_never(options.loss)


def distillation_loss(
    student: fx.GraphModule,
    teacher: fx.GraphModule,
    options: Distill,
    *,
    classification: bool,
    taps: Sequence[Tap] = (),
    original: fx.GraphModule | None = None,
    mixed_precision: bool = False,
    batch_statistics: bool = False,
    exit_weights: Sequence[float] = (),
    self_taught: bool = False,
    frozen: Collection[str] = (),
) -> Loss:
    """Return the loss of a batch: outputs and features against the teacher's, plus labels.

    The loss that the recipe names is for the first output, which the labels index; others are
    compared as numbers. Features are those of ``taps``, and the teacher's side of them is in
    ``original``, by default ``teacher``, which then runs once for both. Behind a batch's inputs
    may stand the teacher's outputs for it; then the teacher does not run. The networks run in 16
    bits if ``mixed_precision`` is set, the losses always in float32. With ``batch_statistics`` the
    student's batch norms are in training mode. ``student`` itself is not changed, but shares its
    tensors with what runs; the teacher is a copy with its batch norms folded.

    ``exit_weights`` are for a student with early exits, whose logits stand behind its own outputs:
    their losses and the final one's are averaged with these weights and 1. With ``self_taught``
    the teacher is the student's own final output, and only the exits learn; both sides of ``taps``
    are then in the student. Batch norms that are ``frozen`` (by the name of their running mean)
    stay in inference mode.

    Several processes share out the networks' work; all of them compute the loss of the whole batch.

    A label of -1 says that the sample has none. Raises StageError if features are asked for and
    there are no taps.
    """
    compare = output_loss(options, classification=classification)
    names = [node.name for node in teacher.graph.nodes if node.op == "placeholder"]
    exits = len(exit_weights)
    if options.feature_weight > 0 and not taps:
        raise StageError(
            "'distill.feature_weight' compares what lies between the model's blocks, and this one "
            "cannot be cut into blocks; set it to 0"
        )
    if options.feature_weight == 0:
        taps = ()
    own = len(output_nodes(student)) - exits
    ask: Callable[[Inputs], list[Tensor]] | None = None
    if self_taught:
        learner = with_outputs(student, [*(t.student for t in taps), *(t.teacher for t in taps)])
    else:
        learner, ask = _with_teacher(student, teacher, original, taps)
    synchronise_batch_norm(train_batch_norm(learner, batch_statistics, frozen=frozen))
    axes = sample_axes(learner)

    def answer_loss(answer: Tensor, expected: Tensor, targets: Tensor | None) -> Tensor:
        """Return the loss of one set of logits, or of the first output where there are none."""
        found = compare(answer, expected)
        if options.hard_label_weight > 0 and targets is not None:
            found = _with_labels(found, answer, targets, options.hard_label_weight)
        return found

    def loss(inputs: Inputs, targets: Tensor | None) -> Tensor:
        inputs, known = inputs[: len(names)], inputs[len(names) :]
        with autocast(inputs[0].device, mixed_precision):
            found = shared(partial(run, learner), inputs, axes)
            if ask is not None:
                expected = list(known) or ask(inputs)
            else:
                split = own + exits + len(taps)
                expected = [value.detach() for value in (*found[:own], *found[split:])]
        answers, weights = found[own : own + exits], list(exit_weights)
        others: list[Tensor] = []
        if not self_taught:
            answers, weights = [found[0], *answers], [1.0, *weights]
            pairs = zip(found[1:own], expected[1:own], strict=True)
            others = [relative_mse_loss(*pair) for pair in pairs]
        losses = [answer_loss(answer, expected[0], targets) for answer in answers]
        total = torch.stack([_mean(losses, weights), *others]).sum()
        if options.feature_weight > 0:
            valid = valid_tokens(names, inputs)
            seen = found[own + exits : own + exits + len(taps)]
            total = total + options.feature_weight * squarehead_loss(seen, expected[own:], valid)
        return total

    return loss


def _with_teacher(
    student: fx.GraphModule,
    teacher: fx.GraphModule,
    original: fx.GraphModule | None,
    taps: Sequence[Tap],
) -> tuple[fx.GraphModule, Callable[[Inputs], list[Tensor]]]:
    """Return the student with its features, and what gives the teacher's outputs and features."""
    original = original if original is not None and taps else teacher
    learner, reference = add_taps(student, original, taps)
    reference = folded(reference)
    separate = None if original is teacher else folded(teacher)

    before = len(output_nodes(original))  # its early exits among them
    axes = sample_axes(reference)
    separate_axes = [] if separate is None else sample_axes(separate)

    @torch.no_grad()
    def ask(inputs: Inputs) -> list[Tensor]:
        answers = shared(partial(run, reference), inputs, axes)
        if separate is None:
            return answers
        return [*shared(partial(run, separate), inputs, separate_axes), *answers[before:]]

    return learner, ask


def folded(teacher: fx.GraphModule) -> fx.GraphModule:
    """Return the teacher with folded batch norms; one whose input is tapped stays as it is."""
    if batch_norms(teacher):
        teacher = clone(teacher)
        fold_batch_norm(teacher)
    return teacher


def _with_labels(total: Tensor, logits: Tensor, targets: Tensor, weight: float) -> Tensor:
    """Give the labels' cross entropy its share, which is less where samples have no label."""
    labelled = (targets != NO_LABEL).sum()
    errors = torch.nn.functional.cross_entropy(
        logits, targets, ignore_index=NO_LABEL, reduction="sum"
    )
    share = weight * labelled / targets.numel()
    return torch.lerp(total, errors / labelled.clamp_min(1), share)


def valid_tokens(names: Sequence[str], inputs: Inputs) -> Tensor | None:
    """Return which tokens of a batch are not padding, bool ``(N, T)``; None where nothing says so.

    An input called ``mask`` or ``...mask...`` says it, if it is ``(N, T)`` and of integers or
    bools: 1 for a token, or, if ``pad`` is in its name too, 1 for padding.
    """
    for name, values in zip(names, inputs, strict=True):
        lower = name.lower()
        if "mask" in lower and values.ndim == 2 and not values.is_floating_point():
            return values == 0 if "pad" in lower else values != 0
    return None


def run(module: Callable[..., object], inputs: Inputs) -> list[Tensor]:
    """Return the outputs in order, those of 16 bits as float32."""
    outputs = output_tensors(module(*inputs))
    return [o.float() if o.dtype in (torch.float16, torch.bfloat16) else o for o in outputs]


def _mean(losses: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return the mean of ``losses`` with these weights."""
    terms = [weight * loss for weight, loss in zip(weights, losses, strict=True)]
    return torch.stack(terms).sum() / sum(weights)
