"""The proof that the exported model is the model: torch against ONNX Runtime on real samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import fx

from edgekd.data.loader import batches
from edgekd.data.source import Dataset, Samples
from edgekd.errors import DataError
from edgekd.graph.program import output_tensors
from edgekd.metrics import compare_outputs, mean_cosine
from edgekd.model.user_code import first_line
from edgekd.progress import Progress
from edgekd.runtime.options import session_options
from edgekd.spec import ModelSpec

MIN_AGREEMENT = 0.995  # top-1 class equal, or mean cosine similarity of the outputs
MAX_ACCURACY_GAP = 0.2  # percentage points
HALF_TOLERANCE = 0.01  # of both, where the exported model rounds to FP16 and the torch model not

Array = np.ndarray[Any, Any]
Outputs = tuple[Array, ...]
Predict = Callable[[tuple[torch.Tensor, ...]], Outputs]


@dataclass(frozen=True)
class Parity:
    """How closely the exported model follows the torch model it was exported from.

    ``agreement``: share of samples with the same top-1 class, or mean cosine similarity where
    there are no classes. ``accuracy_gap_points``: absolute difference of the headline metric, in
    percentage points. ``max_difference``: largest absolute difference of any output value.
    ``float16``: the exported model rounds to FP16, so that more may differ.
    """

    samples: int
    agreement: float
    accuracy_gap_points: float
    max_difference: float
    float16: bool = False

    @property
    def passed(self) -> bool:
        """Tell whether the export is close enough to be called the same model.

        On small validation sets one sample is allowed to differ whatever its share.
        """
        one = 1.0 / max(1, self.samples)
        differing = HALF_TOLERANCE if self.float16 else 1.0 - MIN_AGREEMENT
        gap_limit = 100.0 * HALF_TOLERANCE if self.float16 else MAX_ACCURACY_GAP
        agreement = 1.0 - self.agreement <= max(differing, one) + 1e-9
        gap = self.accuracy_gap_points <= max(gap_limit, 100.0 * one) + 1e-9
        return agreement and gap

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for the manifest."""
        return {**asdict(self), "passed": self.passed}


def torch_predictor(module: fx.GraphModule) -> Predict:
    """Return a function from input tensors to every output as an array."""

    @torch.no_grad()
    def predict(inputs: tuple[torch.Tensor, ...]) -> Outputs:
        return tuple(np.asarray(t.numpy()) for t in output_tensors(module(*inputs)))

    return predict


def onnx_predictor(model: bytes, spec: ModelSpec, target_runtime: str = "onnxruntime") -> Predict:
    """Return a function from input tensors to every output of an ONNX model on the CPU."""
    session = onnxruntime.InferenceSession(
        model, session_options(target_runtime), providers=["CPUExecutionProvider"]
    )
    inputs_named = [tensor.name for tensor in spec.inputs]
    outputs_named = [tensor.name for tensor in spec.outputs]

    def predict(inputs: tuple[torch.Tensor, ...]) -> Outputs:
        feed = {name: tensor.numpy() for name, tensor in zip(inputs_named, inputs, strict=True)}
        return tuple(np.asarray(value) for value in session.run(outputs_named, feed))

    return predict


def _predict_one(predict: Predict, inputs: tuple[torch.Tensor, ...], start: int) -> Outputs:
    try:
        return predict(inputs)
    except Exception as error:  # of torch or of ONNX Runtime, whose errors have no common base
        raise DataError(
            f"the model fails on one of the validation samples {start} to "
            f"{start + len(inputs[0]) - 1}: {first_line(error)}; check that the data fits the model"
        ) from error


def predict_all(
    predict: Predict, data: Dataset, samples: Samples, spec: ModelSpec, progress: Progress
) -> tuple[Outputs, Array | None]:
    """Return every output for every sample, and the targets if the data has any.

    Raises DataError for samples that the model cannot take.
    """
    outputs: list[Outputs] = []
    targets: list[Array] = []
    size = 64
    with progress.task("evaluation", -(-len(samples) // size)) as advance:
        for inputs, expected in batches(data, samples, spec, size):
            outputs.append(_predict_one(predict, inputs, len(outputs) * size))
            if expected is not None:
                targets.append(expected.numpy())
            advance(1)
    joined = tuple(np.concatenate(parts) for parts in zip(*outputs, strict=True))
    return joined, np.concatenate(targets) if targets else None


def parity(
    exported: Outputs, original: Outputs, targets: Array | None, *, float16: bool = False
) -> Parity:
    """Compare two sets of outputs of what should be the same model.

    The agreement is that of the output that agrees least.
    """
    found = compare_outputs(exported, original, targets)
    reference = compare_outputs(original, original, targets)
    agreements = [mean_cosine(a, b) for a, b in zip(exported, original, strict=True)]
    if found.agreement is not None:
        agreements[0] = found.agreement
    return Parity(
        len(exported[0]),
        min(agreements),
        100.0 * abs(found.value - reference.value),
        found.max_difference or 0.0,
        float16,
    )
