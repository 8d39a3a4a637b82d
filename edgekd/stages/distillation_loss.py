"""The loss of distillation as a recipe describes it: which functions, and what they compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import assert_never

import torch
from torch import Tensor, fx

from edgekd.algorithms.feature_loss import feature_loss
from edgekd.algorithms.kd_loss import kl_loss, relative_mse_loss
from edgekd.algorithms.standardized_kl import MIN_CLASSES, standardized_kl
from edgekd.algorithms.top_k_kl import top_k_kl
from edgekd.errors import StageError
from edgekd.graph.program import output_nodes, output_tensors
from edgekd.quantize.taps import add_taps
from edgekd.recipe import Distill
from edgekd.state import CompressionState
from edgekd.training import Inputs, Loss, autocast

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
    original: fx.GraphModule | None = None,
    mixed_precision: bool = False,
) -> Loss:
    """Return the loss of a batch: outputs and features against the teacher's, plus labels.

    The loss that the recipe names is for the first output, which the labels index; others are
    compared as numbers. Features are read where the blocks of ``student`` end, and at the same
    places of ``original``, the float program that it was made of; by default that is ``teacher``.
    Behind a batch's inputs may stand the teacher's outputs for it; then the teacher does not run.
    The networks run in 16 bits if ``mixed_precision`` is set, the losses always in float32.

    Raises StageError if features are asked for and the program has a single block.
    """
    compare = output_loss(options, classification=classification)
    inputs_count = sum(node.op == "placeholder" for node in teacher.graph.nodes)
    outputs_count = len(output_nodes(teacher))
    original = original or teacher
    reference = teacher
    if options.feature_weight > 0:
        student, reference = add_taps(student, original)
        if len(output_nodes(student)) == outputs_count:
            raise StageError(
                "'distill.feature_weight' compares what lies between the model's blocks, and this "
                "one cannot be cut into blocks; set it to 0"
            )

    @torch.no_grad()
    def ask(inputs: Inputs) -> list[Tensor]:
        """Return the teacher's outputs and, behind them, the features."""
        answers = run(reference, inputs)
        if reference is not teacher and original is not teacher:
            answers[:outputs_count] = run(teacher, inputs)
        return answers

    def loss(inputs: Inputs, targets: Tensor | None) -> Tensor:
        inputs, known = inputs[:inputs_count], inputs[inputs_count:]
        with autocast(inputs[0].device, mixed_precision):
            expected = list(known) or ask(inputs)
            found = run(student, inputs)
        total = _compare_outputs(compare, found[:outputs_count], expected[:outputs_count])
        if options.hard_label_weight > 0 and targets is not None:
            labels = torch.nn.functional.cross_entropy(found[0], targets)
            total = torch.lerp(total, labels, options.hard_label_weight)
        if options.feature_weight > 0:
            features = feature_loss(found[outputs_count:], expected[outputs_count:])
            total = total + options.feature_weight * features
        return total

    return loss


def run(module: fx.GraphModule, inputs: Inputs) -> list[Tensor]:
    """Return the outputs in order, those of 16 bits as float32."""
    outputs = output_tensors(module(*inputs))
    return [o.float() if o.dtype in (torch.float16, torch.bfloat16) else o for o in outputs]


def _compare_outputs(
    compare: OutputLoss, found: Sequence[Tensor], expected: Sequence[Tensor]
) -> Tensor:
    pairs = list(zip(found, expected, strict=True))
    terms = [compare(*pairs[0]), *(relative_mse_loss(*pair) for pair in pairs[1:])]
    return torch.stack(terms).sum()
