"""The process that builds an engine: ``python -m edgekd.engine.worker``, a job as JSON on stdin.

TensorRT may end its process, so this one is always fresh. The job is ``{"build": the content of
build.json, "onnx": {file: path}, "binding": name or null, "target_capability": "8.7" or null,
"spec": {...}, "stored": {file: coarsest arithmetic of the graph}, "quantized": [node, ...],
"logits": bool, "timing_cache": path or null, "reference": {"inputs": path, "outputs": path, "kind":
"validation" or "random"} or null, "external_tactics": bool, "write": {"engine": path,
"timing_cache": path, "layers": path}}``. The files of ``reference`` are .npz with the arrays in the
order of ``spec``.

The answer is the last line of stdout, since libraries may write there too; ``run`` describes it.
What goes wrong is the last line on stderr, and exit code 2.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd.engine.binding import RTX, Binding, open_binding
from edgekd.engine.build import Built, build, supported_by_rtx
from edgekd.engine.plan import BuildPlan, plan_for
from edgekd.engine.trial import try_engine
from edgekd.errors import BundleError, EdgekdError
from edgekd.runtime.cuda import this_platform
from edgekd.runtime.engine_manifest import EngineEntry
from edgekd.spec import ModelSpec

if TYPE_CHECKING:
    import numpy.typing as npt


def main() -> int:
    """Read the job, run it, write the answer; return the exit code."""
    try:
        answer = run(json.load(sys.stdin))
    except EdgekdError as error:
        sys.stderr.write(f"\n{error}\n")
        return 2
    except MemoryError:
        sys.stderr.write("\nthere is not enough memory to build the engine: close what is open\n")
        return 2
    sys.stdout.write(f"\n{json.dumps(answer, allow_nan=False)}\n")
    return 0


def run(job: Mapping[str, Any]) -> dict[str, Any]:
    """Build an engine, write it, and try it where its GPU is.

    Returns ``engine`` (the fields of ``EngineEntry`` but for ``file``), ``gpu`` (its name, or
    null), ``build`` (how it went), and what was found by running: ``layers``, ``verification`` and
    ``latency``, all null where there is no GPU that it is for; ``not_run`` then says why.

    Raises BundleError where there is no TensorRT, or no engine comes out.
    """
    binding = open_binding(job["binding"])
    plan = plan_for(job["build"], binding.reads_as)
    plan = _for_target(binding, plan, job["target_capability"])
    cache = job["timing_cache"]
    built = build(
        binding,
        Path(job["onnx"][plan.onnx]).read_bytes(),
        plan,
        b"" if cache is None else Path(cache).read_bytes(),
        external_tactics=job["external_tactics"],
    )
    write = {name: Path(path) for name, path in job["write"].items()}
    write["engine"].write_bytes(built.engine)
    write["timing_cache"].write_bytes(built.timing_cache)
    entry = _entry(binding, plan, built)
    precision = _precision(job["stored"][plan.onnx], plan, built)
    answer: dict[str, Any] = {
        "engine": _without_file(entry),
        "gpu": None if binding.machine is None else binding.machine.name,
        "build": {
            "seconds": built.seconds,
            "strongly_typed": built.strongly_typed,
            "precision": precision,
            "flags": list(built.flags),
            "workspace_bytes": plan.workspace_bytes,
            "warnings": list(built.warnings),
        },
        "layers": None,
        "verification": None,
        "latency": None,
        "not_run": _why_not(binding, entry),
    }
    if answer["not_run"] is None:
        tried = try_engine(
            binding,
            built.engine,
            entry,
            ModelSpec.from_dict(job["spec"]),
            reference=_reference(job),
            precision=precision,
            logits=job["logits"],
            quantized=job["quantized"],
        )
        layers, warnings = tried.pop("layer_list"), tried.pop("warnings")
        if layers is not None:
            write["layers"].write_text(json.dumps(layers, indent=1), "utf-8")
        answer["build"]["warnings"] += warnings
        answer.update(tried)
    return answer


def _for_target(binding: Binding, plan: BuildPlan, capability: str | None) -> BuildPlan:
    """Let TensorRT-RTX build for the target's GPU where none is here and none was named.

    Raises BundleError where it does not know that GPU.
    """
    if binding.name != RTX or binding.machine is not None or plan.compute_capabilities:
        return plan
    known = supported_by_rtx(binding.trt)
    if capability is not None and capability not in known:
        raise BundleError(
            f"{binding.title} builds for compute capability {', '.join(known)}, not for the "
            f"target's {capability}: build on the device with TensorRT (sh build.sh there), or "
            "name one of these with --compute-capability"
        )
    return plan if capability is None else replace(plan, compute_capabilities=(capability,))


def _entry(binding: Binding, plan: BuildPlan, built: Built) -> EngineEntry:
    return EngineEntry(
        "model.engine",
        plan.model,
        plan.onnx,
        binding.name,
        binding.version,
        built.compute_capabilities,
        None if binding.machine is None else binding.machine.cuda,
        this_platform(),
        plan.version_compatible,
        plan.hardware_compatible,
        plan.shapes,
        plan.dla_core,
    )


def _without_file(entry: EngineEntry) -> dict[str, Any]:
    """Return plain data as the manifest's ``engines`` have it."""
    shapes = {
        name: {"min": list(s.smallest), "opt": list(s.best), "max": list(s.largest)}
        for name, s in entry.shapes.items()
    }
    return {
        "model": entry.model,
        "onnx": entry.onnx,
        "binding": entry.binding,
        "version": entry.version,
        "compute_capabilities": list(entry.compute_capabilities),
        "cuda": entry.cuda,
        "platform": entry.platform,
        "version_compatible": entry.version_compatible,
        "hardware_compatible": entry.hardware_compatible,
        "shapes": shapes,
        "dla_core": entry.dla_core,
    }


def _precision(stored: str, plan: BuildPlan, built: Built) -> str:
    """Return the coarsest arithmetic that may be in the engine, a key of ``TOLERANCES``."""
    if built.strongly_typed or stored == "int8":
        return stored
    return "int8" if plan.int8 else "float16" if plan.float16 else stored


def _why_not(binding: Binding, entry: EngineEntry) -> str | None:
    """Return why the engine cannot be run here; None where it can."""
    if binding.machine is None:
        return "no GPU here"
    wrong = entry.misfits(binding.name, binding.version, binding.machine)
    return "; ".join(wrong) or None


def _reference(
    job: Mapping[str, Any],
) -> tuple[dict[str, npt.NDArray[Any]], dict[str, npt.NDArray[Any]], str] | None:
    """Return inputs and outputs by name and where they are from."""
    if job["reference"] is None:
        return None
    sides = []
    for side in ("inputs", "outputs"):
        names = [tensor["name"] for tensor in job["spec"][side]]
        try:
            with np.load(job["reference"][side], allow_pickle=False) as stored:
                sides.append({n: stored[f"arr_{index}"] for index, n in enumerate(names)})
        except (OSError, ValueError, KeyError) as error:
            raise BundleError(f"the reference {side} cannot be read: {error}") from error
    return sides[0], sides[1], str(job["reference"]["kind"])


if __name__ == "__main__":
    sys.exit(main())
