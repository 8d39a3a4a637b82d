"""Teachers beside the original: files of which only the outputs are known."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor

from edgekd.algorithms.restore_targets import restore_targets
from edgekd.algorithms.several_teachers import ensemble_logits
from edgekd.errors import BundleError, ModelError
from edgekd.graph.program import output_tensors, to_module
from edgekd.model.load import open_model
from edgekd.model.program import LoadedModel, to_program
from edgekd.model.user_code import first_line
from edgekd.runtime.onnx_file import check_onnx
from edgekd.runtime.options import session_options

_LEAST = 1e-12  # a probability whose logarithm is finite

Inputs = tuple[Tensor, ...]
Predict = Callable[[Inputs], Tensor]  # the first output, float32, on the CPU


@dataclass(frozen=True)
class BlackBox:
    """A frozen teacher: ``predict`` gives its first output for inputs on any device."""

    file: str
    sha256: str
    predict: Predict


def open_teacher(path: Path, model: LoadedModel) -> BlackBox:
    """Open an ONNX model or a .pt2 file as a teacher beside ``model``.

    Inputs are given by position. An ONNX model that gives probabilities and their classes, floats
    and integers ``(N, k)``, tells its likeliest classes alone: ``_from_top_k`` makes logits of them.
    Raises ModelError for a file that cannot be used, and for a first output of another shape than
    that of ``model``.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"teacher {path} cannot be read: {error.strerror or error}") from None
    is_onnx = path.suffix == ".onnx"
    predict = _onnx(path, content, model) if is_onnx else _program(path, model)
    wanted = tuple(size or len(model.example[0]) for size in model.spec.outputs[0].shape)
    try:
        found = predict(model.example)
    except ModelError:
        raise
    except Exception as error:  # of torch or ONNX Runtime, whose errors have no common base
        raise ModelError(
            f"teacher {path.name} does not run on the model's inputs ({first_line(error)}): it "
            "needs the same inputs in the same order"
        ) from error
    if tuple(found.shape) != wanted:
        raise ModelError(
            f"teacher {path.name} gives {tuple(found.shape)[1:]} a sample, the model {wanted[1:]}: "
            "averaging needs the same outputs"
        )
    return BlackBox(str(path), hashlib.sha256(content).hexdigest(), predict)


def _onnx(path: Path, content: bytes, model: LoadedModel) -> Predict:
    try:
        check_onnx(content, path.name)
    except BundleError as error:
        raise ModelError(f"teacher {str(error).partition(';')[0]}; give one file") from None
    try:
        session = onnxruntime.InferenceSession(
            content, session_options("onnxruntime"), providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime's errors have no common base
        raise ModelError(f"teacher {path.name} cannot be loaded: {first_line(error)}") from error
    names = [entry.name for entry in session.get_inputs()]
    if len(names) != len(model.spec.inputs):
        raise ModelError(
            f"teacher {path.name} has {len(names)} inputs, the model {len(model.spec.inputs)}"
        )
    outputs = session.get_outputs()
    classes = model.spec.outputs[0].shape[-1] if _is_top_k(outputs) else None
    asked = [output.name for output in outputs[: 1 if classes is None else 2]]

    def predict(inputs: Inputs) -> Tensor:
        feed = {name: x.cpu().numpy() for name, x in zip(names, inputs, strict=True)}
        first, *others = (torch.from_numpy(array) for array in session.run(asked, feed))
        if classes is None:
            return first.float()
        return _from_top_k(first.float(), others[0].long(), classes, path.name)

    return predict


def _is_top_k(outputs: Sequence[onnxruntime.NodeArg]) -> bool:
    integers = ("tensor(int64)", "tensor(int32)")
    return (
        len(outputs) == 2
        and outputs[1].type in integers
        and all(len(output.shape) == 2 for output in outputs)
    )


def _from_top_k(probabilities: Tensor, chosen: Tensor, classes: int, name: str) -> Tensor:
    """Return logits ``(N, classes)``: what is left of 1 is spread evenly over the other classes.

    Raises ModelError for numbers that are no probabilities, or no classes.
    """
    if probabilities.min() < 0 or probabilities.sum(1).max() > 1 + 1e-3:
        raise ModelError(
            f"teacher {name} gives its likeliest classes with numbers that are no probabilities, "
            "so that those of the others are not known: put a softmax over all before its top-k"
        )
    if chosen.min() < 0 or chosen.max() >= classes:
        raise ModelError(
            f"teacher {name} names class {int(chosen.max())}, and the model has {classes} classes"
        )
    return restore_targets(probabilities, chosen, classes).clamp_min(_LEAST).log()


def _program(path: Path, model: LoadedModel) -> Predict:
    opened = open_model(path)
    if opened.program is None:
        raise ModelError(f"teacher {path.name} is no .pt2 or ONNX file; save it as one of them")
    module = to_module(to_program(opened, model.example).program)

    @torch.no_grad()
    def predict(inputs: Inputs) -> Tensor:
        return output_tensors(module(*(x.cpu() for x in inputs)))[0].float()

    return predict


@dataclass(frozen=True)
class Panel:
    """Several teachers as one: the original and ``others``, each with a weight.

    The original is no teacher where its weight is 0. ``temperatures`` has one for each teacher, the
    original first. Class probabilities are averaged, where ``dense`` at each pixel; of other
    outputs the numbers themselves.
    """

    others: Sequence[tuple[BlackBox, float]]
    own_weight: float
    classification: bool
    temperatures: Sequence[float] | None = None
    dense: bool = False

    @property
    def asks_original(self) -> bool:
        """Tell whether the original is one of the teachers."""
        return self.own_weight > 0

    def ask(self, own: Sequence[Tensor], inputs: Inputs) -> list[Tensor]:
        """Return every teacher's own first output, the original's first.

        ``own`` is the original's, and may be empty where it is no teacher.
        """
        boxes = [box.predict(inputs).to(inputs[0].device) for box, _ in self.others]
        return [*own[:1], *boxes] if self.asks_original else boxes

    def combine(self, answers: Sequence[Tensor]) -> Tensor:
        """Return what all teachers answer together, from what ``ask`` returns."""
        if len(answers) == 1:
            return answers[0]
        weights = [weight for _, weight in self.others]
        if self.asks_original:
            weights = [self.own_weight, *weights]
        if self.dense:
            last = [x.movedim(1, -1) for x in answers]
            return ensemble_logits(last, weights=weights).movedim(-1, 1)
        if self.classification:
            return ensemble_logits(answers, weights=weights, temperatures=self.temperatures)
        total = torch.stack([w * x for w, x in zip(weights, answers, strict=True)]).sum(0)
        return total / sum(weights)
