"""What a run has to say at its end: the failed checks and the manifest."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from edgekd import __version__
from edgekd.device import DeviceProfile
from edgekd.export.kernels import KernelReport, read_kernels, read_placement
from edgekd.export.parity import Parity
from edgekd.export.tensorrt_rules import RULES, Violation, check_tensorrt, unknown_to_8_5
from edgekd.job import CompressRequest, Job, versions
from edgekd.steps import ORIGINAL, Step

Violations = tuple[Violation, ...]


def broken_rules(profile: DeviceProfile, step: Step) -> Violations | None:
    """Return where a graph for TensorRT breaks TensorRT's rules, None for another runtime.

    ONNX Runtime needs no rules: it is here and shows what it makes of the graph.
    """
    if profile.runtime != "tensorrt":
        return None
    return check_tensorrt(step.onnx, opset=profile.opset)


def failed_checks(
    request: CompressRequest, steps: list[Step], proof: Parity, broken: Violations | None
) -> list[str]:
    """Return one line for every budget, proof or rule of the target that did not hold."""
    messages = []
    total = steps[-1].record["drop_points"]
    if request.max_drop is not None and total > request.max_drop + 1e-9:
        messages.append(
            f"{steps[-1].record['metric']} fell by {total:.2f} points, more than --max-drop "
            f"{request.max_drop:g}: {_losses(steps)}"
        )
    flips = steps[-1].quality.negative_flips
    limit = request.max_nfr
    if limit is not None and flips is not None and 100 * flips > limit + 1e-9:
        messages.append(
            f"{100 * flips:.2f} % of the samples were right in the original and are wrong now, "
            f"more than --max-nfr {limit:g}"
        )
    if not proof.passed:
        messages.append(
            f"the exported model does not follow the torch model: agreement {proof.agreement:.4f}, "
            f"accuracy gap {proof.accuracy_gap_points:.2f} points"
        )
    return [*messages, *_rule_lines(broken or ())]


def _rule_lines(broken: Violations) -> list[str]:
    """Say for every broken rule where it is broken first, and how often; the manifest has all."""
    lines = []
    for rule in dict.fromkeys(violation.rule for violation in broken):
        first, *others = [violation for violation in broken if violation.rule == rule]
        more = f" (and {len(others)} more)" if others else ""
        lines.append(f"TensorRT's rule {rule!r} is broken at {first.node}: {first.message}{more}")
    return lines


def _losses(steps: list[Step]) -> str:
    """Say what every stage lost, in points against the step before it."""
    drops = [(step.record["name"], step.record["drop_points"]) for step in steps]
    return ", ".join(
        f"{name} lost {after - before:.2f}" for (_, before), (name, after) in pairwise(drops)
    )


def target_notes(profile: DeviceProfile) -> list[str]:
    """Say plainly what was not done on the target itself."""
    if profile.runtime == "tensorrt":
        return [
            "the TensorRT engine must be built where TensorRT is, on the device: trtexec "
            "--onnx=model.onnx --int8 --fp16 --saveEngine=model.engine (TensorRT 8.5 to 10; leave "
            "out --int8 --fp16 from 11 on); accuracy here is ONNX Runtime's for the same graph, "
            "and latency was not measured"
        ]
    here = platform.machine()
    if profile.architecture not in (None, here):
        return [f"latency was measured on this {here} machine, not on {profile.title}"]
    return []


def version_notes(profile: DeviceProfile, step: Step) -> list[str]:
    """Name the operators that the oldest TensorRT in use does not know."""
    found = unknown_to_8_5(step.onnx) if profile.runtime == "tensorrt" else ()
    if not found:
        return []
    return [f"the model has {', '.join(found)}, which TensorRT 8.5 (JetPack 5.1) does not know"]


def _rules(broken: Violations | None) -> dict[str, Any] | None:
    """Return the check of the target's rules for the manifest, None if it has none."""
    if broken is None:
        return None
    return {
        "runtime": "tensorrt",
        "rules": list(RULES),
        "passed": not broken,
        "violations": [violation.to_dict() for violation in broken],
    }


def _kernels(profile: DeviceProfile, step: Step) -> KernelReport:
    """Return the precision of every layer: as built where that can be seen, else as asked for."""
    reasons = step.record["details"].get("float_reasons", {})
    if profile.runtime == "onnxruntime":
        return read_kernels(step.onnx, reasons)
    return read_placement(step.onnx, profile.runtime, reasons)


def build_manifest(
    job: Job, steps: list[Step], proof: Parity, broken: Violations | None, messages: list[str]
) -> dict[str, Any]:
    """Return the bundle's manifest as plain data, without the files' hashes."""
    last, data, spec = steps[-1], job.data, job.loaded.spec
    images = {}
    if data.preprocessing is not None and data.image_input is not None:
        name = data.names.get(data.image_input, data.image_input)
        images[name] = data.preprocessing.to_dict()
    return {
        "format_version": 1,
        "name": job.request.out.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "edgekd": __version__,
        "target": job.profile.model_dump(mode="json"),
        "models": {"compressed": "model.onnx", "baseline": "baseline.onnx"},
        "spec": spec.to_dict(),
        "preprocessing": images,
        "classes": None if data.classes is None else list(data.classes),
        "task": "classification" if last.quality.metric == "top1" else "other",
        "seed": job.recipe.seed,
        "source": job.loaded.source,
        "recipe": job.recipe.model_dump(mode="json"),
        "versions": versions(),
        "data": data.fingerprints,
        "stages": [step.record for step in steps],
        "accuracy": {ORIGINAL: steps[0].quality.to_dict(), "compressed": last.quality.to_dict()},
        "parity": proof.to_dict(),
        "target_rules": _rules(broken),
        "kernels": _kernels(job.profile, last).to_dict(),
        "latency": last.record["latency"],
        "notes": [*target_notes(job.profile), *version_notes(job.profile, last), *data.notes],
        "failed_checks": messages,
    }
