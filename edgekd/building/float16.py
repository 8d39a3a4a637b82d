"""A copy of a finished model in FP16, for the strongly typed networks of TensorRT 10 and newer.

A float32 graph suits TensorRT 8, which chooses FP16 by itself where that is faster. A strongly
typed network takes every type from the graph, and would compute whatever is not quantized in FP32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgekd.building.plan import HALF_NAME, runs_strongly_typed
from edgekd.device import DeviceProfile
from edgekd.errors import EdgekdError, ExportError
from edgekd.exits.attach import without_exits
from edgekd.export.finite import not_finite
from edgekd.export.half import to_half
from edgekd.export.half_rounding import with_rounding
from edgekd.export.onnx import export_onnx
from edgekd.export.parity import HALF_TOLERANCE, Parity, onnx_predictor, parity, predict_all
from edgekd.export.tensorrt_rules import check_tensorrt
from edgekd.job import Job
from edgekd.metrics import Budget, Quality, compare_outputs, drop_points
from edgekd.progress import Progress
from edgekd.steps import Step

OPSET = 20  # TensorRT 10.0 reads 9 to 20 (docs/operators.md of onnx/onnx-tensorrt, 10.0-GA)


@dataclass(frozen=True)
class HalfCopy:
    """The file, None where there can be none, and what the manifest says of it."""

    onnx: bytes | None
    facts: Mapping[str, Any] = field(default_factory=dict)


def half_copy(job: Job, steps: Sequence[Step], progress: Progress) -> HalfCopy | None:
    """Return the last of ``steps`` in FP16 with the same integers and scales.

    None where it would not be used. Its answers, with the rounding that FP16 does, are compared on
    the validation samples. Where it cannot be written, breaks a rule of TensorRT, gives other
    answers or misses a budget that the model holds, there is no file and ``facts`` has the
    ``reason``.
    """
    if not is_wanted(job.profile):
        return None
    progress.note(f"TensorRT 10 and newer: {HALF_NAME}, the same model with its float rest in FP16")
    try:
        return _written(job, steps, progress)
    except EdgekdError as error:
        return HalfCopy(None, {"file": None, "reason": str(error)})


def is_wanted(profile: DeviceProfile) -> bool:
    """Tell whether a target gains from a copy in FP16.

    It does where the graph is in FP32, TensorRT 10 or newer runs there, and FP16 is faster than
    FP32. Where no rate says otherwise it is: every GPU that TensorRT 10 supports has tensor cores
    (NVIDIA TensorRT 10.0 support matrix, "Hardware and Precision").
    """
    peaks = profile.peak_gmacs or {}
    slow = "float16" in peaks and peaks["float16"] <= peaks.get("float32", 0.0)
    return (
        profile.runtime == "tensorrt"
        and profile.float_type == "float32"
        and not slow
        and runs_strongly_typed(profile.model_dump(mode="json"))
    )


def _written(job: Job, steps: Sequence[Step], progress: Progress) -> HalfCopy:
    spec, data = job.loaded.spec, job.data
    original, last = steps[0], steps[-1]
    own = without_exits(last.model, len(spec.outputs))
    opset = max(OPSET, job.profile.opset)
    half = to_half(export_onnx(own, job.loaded.example, spec, opset=opset))
    if broken := check_tensorrt(half.model, opset=opset):
        raise ExportError(f"it breaks TensorRT's rule {broken[0].rule!r} at {broken[0].node}")
    here = with_rounding(half.model)
    predict = onnx_predictor(here, spec, job.profile.runtime)
    outputs, _ = predict_all(predict, data, data.validation, spec, progress)
    if failure := not_finite(here, outputs, data):
        raise ExportError(f"in FP16 the model gives {failure}")
    proof = parity(outputs, last.outputs, last.targets, float16=True)
    quality = compare_outputs(outputs, original.outputs, last.targets)
    if difference := _too_different(job.budget, proof, quality, last.quality, original.quality):
        raise ExportError(f"in FP16 {difference}")
    facts = {
        "file": HALF_NAME,
        "opset": opset,
        "kept_float32": half.kept,
        "quality": quality.to_dict(),
        "parity": proof.to_dict(),
    }
    return HalfCopy(half.model, facts)


def _too_different(
    budget: Budget, proof: Parity, half: Quality, model: Quality, original: Quality
) -> str | None:
    """Say how a copy is worse than the model it was made of, None where it is not.

    Rounding decides anew where two classes were nearly equal, in either direction. So a copy that
    does not follow the model may pass by being as close to the original as the model is.
    """
    if not (proof.passed or _as_faithful(half, model)):
        return (
            f"it does not give the same answers: agreement {proof.agreement:.4f}, accuracy gap "
            f"{proof.accuracy_gap_points:.2f} points"
        )
    lost, before = drop_points(half, original), drop_points(model, original)
    if budget.holds(before, model.negative_flips) and not budget.holds(lost, half.negative_flips):
        return (
            f"{half.metric} falls by {lost:.2f} points instead of {before:.2f}, and the budget "
            "does not allow that"
        )
    return None


def _as_faithful(half: Quality, model: Quality) -> bool:
    """Tell whether a copy agrees with the original, and is right, as often as the model."""
    if half.agreement is None or model.agreement is None:
        return False
    worse = max(model.agreement - half.agreement, model.value - half.value)
    return worse <= HALF_TOLERANCE + 1e-9
