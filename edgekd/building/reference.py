"""What an engine has to answer: the ONNX model on ONNX Runtime, on validation samples or noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.bench.worker import random_feed
from edgekd.engine.verify import RANDOM, VALIDATION
from edgekd.errors import DataError
from edgekd.evaluate import open_for
from edgekd.progress import Progress
from edgekd.runtime import load
from edgekd.runtime.manifest import Manifest
from edgekd.runtime.trust import Trust
from edgekd.spec import TensorSpec

SAMPLES = 500  # at most: 1 of 200 that differs is the limit of what verification allows
NOISE = 64
_LARGEST = 2**26  # bytes of inputs: they may have to travel to a board
_FEWEST = 16
_BATCH = 64

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Reference:
    """Inputs and outputs in the order of the spec, samples first, and where inputs are from."""

    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]
    kind: str


def reference_answers(
    bundle: Path,
    manifest: Manifest,
    role: str,
    data: str | None,
    progress: Progress,
    trust: Trust | None = None,
) -> Reference:
    """Run the model ``role`` of ``bundle`` over validation samples of ``data``.

    Without data over seeded random numbers. ``trust`` is that of ``load``. Raises DataError for
    data that does not fit, and BundleError where ONNX Runtime cannot run the model.
    """
    kind = RANDOM if data is None else VALIDATION
    fixed = next((t.shape[0] for t in manifest.spec.inputs if t.shape and t.shape[0]), None)
    batch = fixed or _BATCH
    feeds = _noise(manifest, batch) if data is None else _samples(manifest, data, batch)
    names = [tensor.name for tensor in manifest.spec.inputs]
    given: list[list[Array]] = []
    answers: list[list[Array]] = []
    with (
        load(bundle, role, runtime="onnxruntime", trust=trust) as network,
        progress.task(f"Answers of the ONNX model to {kind} samples", 1) as advance,
    ):
        for feed in feeds:
            found = network(**feed)
            outputs = found if isinstance(found, dict) else {manifest.spec.outputs[0].name: found}
            given.append([np.asarray(feed[name]) for name in names])
            answers.append([np.asarray(outputs[t.name]) for t in manifest.spec.outputs])
        advance(1)
    return Reference(_joined(given), _joined(answers), kind)


def _joined(parts: list[list[Array]]) -> tuple[Array, ...]:
    return tuple(np.concatenate(rows) for rows in zip(*parts, strict=True))


def _samples(manifest: Manifest, data: str, batch: int) -> Iterator[dict[str, Array]]:
    dataset = open_for(manifest, data)
    first, _ = dataset.inputs(dataset.validation, np.arange(1))
    each = sum(np.asarray(array).nbytes for array in first.values())
    count = min(len(dataset.validation), SAMPLES, max(_FEWEST, _LARGEST // max(1, each)))
    parts = range(0, count - count % batch if count > batch else count, batch)
    if count < batch and any(t.shape[:1] == (batch,) for t in manifest.spec.inputs):
        raise DataError(f"the model takes {batch} samples at once, {data} has {count} to validate")
    for start in parts:
        yield dataset.inputs(dataset.validation, np.arange(start, min(start + batch, count)))[0]


def _noise(manifest: Manifest, batch: int) -> Iterator[dict[str, Array]]:
    rows = min(batch, NOISE) if any(t.shape[:1] == (None,) for t in manifest.spec.inputs) else batch
    specs = {
        tensor.name: TensorSpec(tensor.name, tensor.dtype, (rows, *tensor.shape[1:]))
        for tensor in manifest.spec.inputs
    }
    yield random_feed(specs, seed=0)
