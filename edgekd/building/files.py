"""What a bundle for TensorRT holds so that its engine can be built on the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgekd.building.float16 import half_copy
from edgekd.building.plan import HALF_NAME, build_file, to_json
from edgekd.building.script import SCRIPT_NAME, build_script
from edgekd.engine.plan import PLAN_NAME
from edgekd.job import Job
from edgekd.progress import Progress
from edgekd.steps import Step


def with_build_files(
    job: Job, steps: Sequence[Step], manifest: dict[str, Any], progress: Progress
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the manifest with what was made for TensorRT, and the files by name.

    Other runtimes need none: the manifest is returned as it is. Raises BundleError for a model
    with an open axis besides the batch.
    """
    if job.profile.runtime != "tensorrt":
        return manifest, {}
    half = half_copy(job, steps, progress)
    files: dict[str, bytes] = {}
    if half is not None:
        manifest = {**manifest, "float16_model": dict(half.facts)}
        if half.onnx is None:
            manifest["notes"] = [*manifest["notes"], _why_float32(half.facts["reason"])]
        else:
            files[HALF_NAME] = half.onnx
    plan = build_file(manifest)
    files |= {PLAN_NAME: to_json(plan), SCRIPT_NAME: build_script(plan, job.loaded.spec)}
    return manifest, files


def _why_float32(reason: str) -> str:
    return (
        f"TensorRT 10 and newer compute whatever is not quantized in FP32, since there is no "
        f"{HALF_NAME}: {reason}"
    )
