"""How good a bundle's model is on data, through the same runtime that production uses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.data.source import Dataset, open_data
from edgekd.errors import DataError
from edgekd.metrics import Quality, compare_outputs, drop_points, is_dense
from edgekd.progress import Progress, Silent
from edgekd.runtime import Manifest, load

BATCH_SIZE = 64

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Evaluation:
    """The quality of one model of a bundle on validation samples.

    ``runtime`` ran the model and ``precision`` is what it was told, None for its own.
    ``same_samples`` tells whether they are the very samples that ``compress`` validated on.
    """

    model: str
    runtime: str
    precision: str | None
    quality: Quality
    same_samples: bool

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


def evaluate(
    bundle: Path,
    data: str,
    *,
    model: str = "compressed",
    runtime: str = "onnxruntime",
    precision: str | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Compare ``model`` of ``bundle`` with labels and baseline on the validation part of ``data``.

    ``runtime`` and ``precision`` are those of ``edgekd.runtime.load``; the baseline that it is
    compared with always runs on ONNX Runtime in FP32. Preprocessing and the seed of splits come
    from the bundle. Raises BundleError, or DataError when the data does not fit the model, or says
    nothing about it (the baseline without targets).
    """
    progress = progress or Silent()
    network = load(bundle, model, runtime=runtime, precision=precision)
    dataset = _open_noting(network.manifest, data, progress)
    if model == "compressed" and network.manifest.cascade is not None:
        names = ", ".join(network.manifest.cascade.operating_points)
        progress.note(
            "this is the model without its early exits; --operating-point NAME evaluates them: "
            f"{names}"
        )
    outputs, targets = run_over(network, dataset, f"Evaluating {model}", progress)
    is_reference = (model, runtime) == ("baseline", "onnxruntime")
    if is_reference:
        reference = outputs
    else:
        with load(bundle, "baseline", runtime="onnxruntime") as baseline:
            reference, _ = run_over(baseline, dataset, "Evaluating baseline", progress)
    if targets is None and is_reference:
        raise DataError(f"{data} has no labels, and the baseline is what others are compared with")
    check_labels(targets, outputs[0], network.manifest)
    quality = compare_outputs(outputs, reference, targets)
    same = _is_same(network.manifest, dataset)
    return Evaluation(model, runtime, precision, quality, same)


@dataclass(frozen=True)
class ExitEvaluation:
    """The quality of early exits at one operating point, on validation samples.

    ``quality`` compares with the same bundle's model without exits on ONNX Runtime, below which
    they are ``drop_points``. ``shares`` of the samples left at each of ``exits``, the last being
    the end. The rest is as in ``Evaluation``.
    """

    operating_point: str
    runtime: str
    precision: str | None
    quality: Quality
    drop_points: float
    exits: tuple[str, ...]
    shares: tuple[float, ...]
    same_samples: bool

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


def evaluate_exits(
    bundle: Path,
    data: str,
    operating_point: str,
    *,
    runtime: str = "onnxruntime",
    precision: str | None = None,
    progress: Progress | None = None,
) -> ExitEvaluation:
    """Run the early exits of ``bundle`` over the validation part of ``data``.

    Arguments and errors are those of ``evaluate``; BundleError also for a bundle without early
    exits and for an operating point that it does not have, which names those that it has.
    """
    progress = progress or Silent()
    cascade = load(bundle, operating_point=operating_point, runtime=runtime, precision=precision)
    dataset = _open_noting(cascade.manifest, data, progress)
    taken: list[npt.NDArray[np.int64]] = []

    def answer(**arrays: Any) -> Array:
        found = cascade.run(**arrays)
        taken.append(found.exits)
        return found.outputs

    outputs, targets = run_over(answer, dataset, f"Evaluating {operating_point}", progress)
    with load(bundle, "compressed", runtime="onnxruntime") as whole:
        reference, _ = run_over(whole, dataset, "Evaluating compressed", progress)
    check_labels(targets, outputs[0], cascade.manifest)
    described = cascade.manifest.cascade
    assert described is not None
    names = (*(exit.name for exit in described.exits), "end")
    quality = compare_outputs(outputs, reference, targets)
    counts = np.bincount(np.concatenate(taken), minlength=len(names))
    return ExitEvaluation(
        operating_point,
        runtime,
        precision,
        quality,
        drop_points(quality, compare_outputs(reference, reference, targets)),
        names,
        tuple((counts / counts.sum()).tolist()),
        _is_same(cascade.manifest, dataset),
    )


def _open_noting(manifest: Manifest, data: str, progress: Progress) -> Dataset:
    """Open the data, and say what is odd about it."""
    dataset = open_for(manifest, data)
    for note in dataset.notes:
        progress.note(note)
    if dataset.preprocessing is not None and not manifest.preprocessing:
        progress.note(
            "the bundle has no preprocessing: pixels are divided by 255, which is wrong for a "
            "network trained with --mean and --std"
        )
    return dataset


def open_for(manifest: Manifest, data: str) -> Dataset:
    """Open ``data`` with the bundle's preprocessing, split as ``compress`` splits it.

    Raises DataError when the data cannot be used.
    """
    steps = next(iter(manifest.preprocessing.values()), None)
    shape = manifest.spec.inputs[0].shape[1:] if steps else ()
    sizes = tuple(size for size in shape if size is not None)
    calibration = (manifest.data.get("data") or {}).get("calibration") or {}
    opened = open_data(
        data,
        mean=steps.mean if steps else None,
        std=steps.std if steps else None,
        image_size=sizes if len(sizes) == 3 else None,
        calibration_samples=int(calibration.get("count", 512)),
        seed=int(manifest.data.get("seed", 0)),
    )
    return opened.bind([tensor.name for tensor in manifest.spec.inputs])


def run_over(
    network: Callable[..., Any], dataset: Dataset, description: str, progress: Progress
) -> tuple[tuple[Array, ...], Array | None]:
    """Return every output for every validation sample, and the targets if there are any."""
    total = len(dataset.validation)
    outputs: list[tuple[Array, ...]] = []
    targets: list[Array] = []
    with progress.task(description, total) as advance:
        for start in range(0, total, BATCH_SIZE):
            indices = np.arange(start, min(start + BATCH_SIZE, total))
            arrays, expected = dataset.inputs(dataset.validation, indices)
            outputs.append(_in_order(network(**arrays)))
            if expected is not None:
                targets.append(expected)
            advance(len(indices))
    joined = tuple(np.concatenate(parts) for parts in zip(*outputs, strict=True))
    return joined, np.concatenate(targets) if targets else None


def _in_order(outputs: Any) -> tuple[Array, ...]:
    """Return the runtime's answer, an array or a dict by name, as a tuple."""
    return tuple(outputs.values()) if isinstance(outputs, dict) else (outputs,)


def check_labels(targets: Array | None, outputs: Array, manifest: Manifest) -> None:
    """Refuse labels of other classes: the metric would quietly become another one."""
    if targets is None:
        return
    if _was_dense(manifest) and not is_dense(targets, outputs):
        raise DataError(
            "the model gives classes at each pixel, and the labels are none for it: it takes "
            f"integers {tuple(outputs[:, 0].shape)} below {outputs.shape[1]}, or -1 or 255 where "
            "nobody labelled"
        )
    if manifest.task != "classification":
        return
    if targets.ndim != 1 or targets.dtype.kind not in "iu":
        raise DataError(f"the model is a classifier, but the labels are {targets.dtype} numbers")
    if targets.min() < 0 or targets.max() >= outputs.shape[-1]:
        raise DataError(
            f"labels run from {targets.min()} to {targets.max()}, "
            f"but the model has {outputs.shape[-1]} classes"
        )


def _was_dense(manifest: Manifest) -> bool:
    """Tell whether ``compress`` has evaluated the model by labels of pixels."""
    original = (manifest.data.get("accuracy") or {}).get("original") or {}
    return bool(original.get("metric") == "miou")


def _is_same(manifest: Manifest, dataset: Dataset) -> bool:
    recorded = (manifest.data.get("data") or {}).get("validation") or {}
    return bool(recorded.get("sha256") == dataset.fingerprints["validation"]["sha256"])
