"""The process that builds an engine, seen from outside: its job, and how it ended."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.bench.place import Ended, Place
from edgekd.building.reference import Reference
from edgekd.errors import BundleError
from edgekd.runtime.manifest import Manifest

WORKER = "edgekd.engine.worker"
ENGINE, CACHE, LAYERS = "engine", "timing_cache", "layers"


def make_job(
    manifest: Manifest,
    build: Mapping[str, Any],
    onnx: Mapping[str, bytes],
    *,
    timing_cache: bytes | None,
    reference: Reference | None,
    binding: str | None,
    external_tactics: bool,
    folder: Path,
    place: Place,
) -> dict[str, Any]:
    """Write what the process needs into ``folder``, bring it to ``place`` and return the job.

    ``build`` is the content of build.json, ``onnx`` the files that its plans name. Raises
    MeasurementError where the files cannot be brought.
    """
    files = {name: _write(folder / f"from-{name}", data) for name, data in onnx.items()}
    cache = _write(folder / "cache", timing_cache) if timing_cache else None
    sides: dict[str, Path] = {}
    if reference is not None:
        sides["inputs"] = _store(folder / "inputs.npz", reference.inputs)
        sides["outputs"] = _store(folder / "outputs.npz", reference.outputs)
    there = place.bring([*files.values(), *filter(None, [cache]), *sides.values()])
    described = manifest.data.get("kernels") or {}
    layers = described.get("layers") or []
    return {
        "build": build,
        "onnx": {name: there[path] for name, path in files.items()},
        "binding": binding,
        "target_capability": manifest.target.get("compute_capability"),
        "spec": manifest.spec.to_dict(),
        "stored": {name: _stored(manifest, name) for name in files},
        "quantized": [layer["name"] for layer in layers if layer["precision"] == "int8"],
        "logits": manifest.task == "classification",
        "timing_cache": None if cache is None else there[cache],
        "reference": None
        if reference is None
        else {**{side: there[path] for side, path in sides.items()}, "kind": reference.kind},
        "external_tactics": external_tactics,
        "write": {kind: place.output(kind) for kind in (ENGINE, CACHE, LAYERS)},
    }


def ask(place: Place, job: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
    """Run the process to its end and return its answer; raises BundleError for how it failed."""
    try:
        done = place.run(WORKER, job, timeout_s)
    except TimeoutError as error:
        raise BundleError(
            f"building took more than {timeout_s:g} s and was stopped: give it more time, or build "
            "a smaller model"
        ) from error
    if done.code != 0:
        raise BundleError(f"{place.title}: {_why(done)}" if place.title else _why(done))
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    try:
        answer: dict[str, Any] = json.loads(lines[-1])
    except (IndexError, ValueError) as error:
        raise BundleError("the building process ended without an answer: build again") from error
    return answer


def _why(done: Ended) -> str:
    """Return one line for how the process ended: TensorRT may take it along."""
    if done.code < 0:
        try:
            name = signal.Signals(-done.code).name
        except ValueError:
            name = f"signal {-done.code}"
        advice = "free memory or give a smaller workspace, or build with another version"
        return f"TensorRT crashed: {name} ended the building process; {advice}"
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return lines[-1] if lines else f"the building process ended with exit code {done.code}"


def _stored(manifest: Manifest, name: str) -> str:
    """Return the coarsest arithmetic that a file's graph asks for."""
    if (manifest.data.get("kernels") or {}).get("integer_layers"):
        return "int8"
    half = (manifest.data.get("float16_model") or {}).get("file")
    is_half = name == half or manifest.target.get("float_type") == "float16"
    return "float16" if is_half else "float32"


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _store(path: Path, arrays: Sequence[npt.NDArray[Any]]) -> Path:
    np.savez(path, *arrays)  # by position: names of tensors may be anything
    return path
