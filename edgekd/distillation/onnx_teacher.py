"""An ONNX model that only answers: all its classes, or the likeliest ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnxruntime
import torch
from torch import Tensor

from edgekd.algorithms.restore_targets import restore_targets
from edgekd.data.samples import Array
from edgekd.errors import BundleError, ModelError
from edgekd.model.user_code import first_line
from edgekd.runtime.onnx_file import check_onnx
from edgekd.runtime.options import session_options
from edgekd.spec import ModelSpec

Inputs = tuple[Tensor, ...]
Predict = Callable[[Inputs], Tensor]  # the first output, float32, on the CPU
_LEAST = 1e-12  # a probability whose logarithm is finite


def open_session(content: bytes, what: str) -> onnxruntime.InferenceSession:
    """Open an ONNX model on the CPU; ``what`` names it. Raises ModelError."""
    try:
        check_onnx(content, what)
    except BundleError as error:
        raise ModelError(f"{str(error).partition(';')[0]}; give one file") from None
    try:
        return onnxruntime.InferenceSession(
            content, session_options("onnxruntime"), providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime's errors have no common base
        raise ModelError(f"{what} cannot be loaded: {first_line(error)}") from error


def feed_of(names: Sequence[str], inputs: Inputs) -> dict[str, Array]:
    """Return the inputs, on any device, as a session takes them."""
    return {name: x.cpu().numpy() for name, x in zip(names, inputs, strict=True)}


def onnx_teacher(name: str, content: bytes, spec: ModelSpec) -> Predict:
    """Return what answers as the file called ``name`` does, for inputs of ``spec`` by position.

    Raises ModelError for a model that cannot be loaded, or takes other inputs.
    """
    session = open_session(content, f"teacher {name}")
    names = [entry.name for entry in session.get_inputs()]
    if len(names) != len(spec.inputs):
        raise ModelError(f"teacher {name} has {len(names)} inputs, the model {len(spec.inputs)}")
    outputs = session.get_outputs()
    classes = spec.outputs[0].shape[-1] if _is_top_k(outputs) else None
    asked = [output.name for output in outputs[: 1 if classes is None else 2]]

    def predict(inputs: Inputs) -> Tensor:
        found = session.run(asked, feed_of(names, inputs))
        first, *others = (torch.from_numpy(array) for array in found)
        if classes is None:
            return first.float()
        return _from_top_k(first.float(), others[0].long(), classes, name)

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
