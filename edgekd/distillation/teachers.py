"""Teachers beside the original: files of which only the outputs are known."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from edgekd.algorithms.several_teachers import ensemble_logits
from edgekd.distillation.onnx_teacher import Inputs, Predict, onnx_teacher
from edgekd.errors import ModelError
from edgekd.graph.program import output_tensors, to_module
from edgekd.model.load import open_model
from edgekd.model.program import to_program
from edgekd.model.student import Form
from edgekd.model.user_code import first_line


@dataclass(frozen=True)
class BlackBox:
    """A frozen teacher: ``predict`` gives its first output for inputs on any device."""

    file: str
    sha256: str
    predict: Predict


def open_teacher(path: Path, model: Form) -> BlackBox:
    """Open an ONNX model or a .pt2 file as a teacher beside ``model``.

    Inputs are given by position. An ONNX model that gives probabilities and their classes, floats
    and integers ``(N, k)``, tells its likeliest classes alone. Raises ModelError for a file that
    cannot be used, and for a first output of another shape than that of ``model``.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"teacher {path} cannot be read: {error.strerror or error}") from None
    is_onnx = path.suffix == ".onnx"
    predict = onnx_teacher(path.name, content, model.spec) if is_onnx else _program(path, model)
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


def _program(path: Path, model: Form) -> Predict:
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
