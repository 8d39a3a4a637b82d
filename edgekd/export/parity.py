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
from edgekd.graph.program import output_tensors
from edgekd.metrics import compare, mean_cosine
from edgekd.progress import Progress
from edgekd.spec import ModelSpec

MIN_AGREEMENT = 0.995  # top-1 class equal, or mean cosine similarity of the outputs
MAX_ACCURACY_GAP = 0.2  # percentage points

Array = np.ndarray[Any, Any]
Predict = Callable[[tuple[torch.Tensor, ...]], Array]


@dataclass(frozen=True)
class Parity:
    """How closely the exported model follows the torch model it was exported from.

    ``agreement``: share of samples with the same top-1 class, or mean cosine similarity where
    there are no classes. ``accuracy_gap_points``: absolute difference of the headline metric, in
    percentage points. ``max_difference``: largest absolute difference of any output value.
    """

    samples: int
    agreement: float
    accuracy_gap_points: float
    max_difference: float

    @property
    def passed(self) -> bool:
        """Tell whether the export is close enough to be called the same model.

        On small validation sets one sample is allowed to differ whatever its share.
        """
        one = 1.0 / max(1, self.samples)
        agreement = 1.0 - self.agreement <= max(1.0 - MIN_AGREEMENT, one) + 1e-9
        gap = self.accuracy_gap_points <= max(MAX_ACCURACY_GAP, 100.0 * one) + 1e-9
        return agreement and gap

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for the manifest."""
        return {**asdict(self), "passed": self.passed}


def torch_predictor(module: fx.GraphModule) -> Predict:
    """Return a function from input tensors to the first output as an array."""

    @torch.no_grad()
    def predict(inputs: tuple[torch.Tensor, ...]) -> Array:
        return np.asarray(output_tensors(module(*inputs))[0].cpu().numpy())

    return predict


def onnx_predictor(model: bytes, spec: ModelSpec) -> Predict:
    """Return a function from input tensors to the first output of an ONNX model on the CPU."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names, first = [tensor.name for tensor in spec.inputs], [spec.outputs[0].name]

    def predict(inputs: tuple[torch.Tensor, ...]) -> Array:
        feed = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        return np.asarray(session.run(first, feed)[0])

    return predict


def predict_all(
    predict: Predict, data: Dataset, samples: Samples, spec: ModelSpec, progress: Progress
) -> tuple[Array, Array | None]:
    """Return the first output for every sample, and the targets if the data has any."""
    outputs, targets = [], []
    size = 64
    with progress.task("evaluation", -(-len(samples) // size)) as advance:
        for inputs, expected in batches(data, samples, spec, size):
            outputs.append(predict(inputs))
            if expected is not None:
                targets.append(expected.numpy())
            advance(1)
    return np.concatenate(outputs), np.concatenate(targets) if targets else None


def parity(exported: Array, original: Array, targets: Array | None) -> Parity:
    """Compare two sets of outputs of what should be the same model."""
    found, reference = compare(exported, original, targets), compare(original, original, targets)
    agreement = found.agreement
    if agreement is None:
        agreement = mean_cosine(exported, original)
    return Parity(
        len(exported),
        agreement,
        100.0 * abs(found.value - reference.value),
        found.max_difference or 0.0,
    )
