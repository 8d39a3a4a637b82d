"""What a run has to say at its end: the failed checks and the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from edgekd import __version__
from edgekd.bench.machine import why_not_here
from edgekd.cascade import Built
from edgekd.choice import Choice
from edgekd.device import DeviceProfile
from edgekd.export.kernels import KernelReport, read_kernels, read_placement
from edgekd.export.layer_norm import has_decomposed_layer_norm
from edgekd.export.parity import Parity
from edgekd.export.tensorrt_rules import NEWEST_OPSET, RULES, Violation, check_tensorrt
from edgekd.export.tensorrt_rules.operators import unknown_to_oldest
from edgekd.job import Job, versions
from edgekd.metrics import Budget
from edgekd.recipe import doubts
from edgekd.runtime import openvino
from edgekd.stages.quantize import zero_range_note
from edgekd.steps import ORIGINAL, Step

Violations = tuple[Violation, ...]


def broken_rules(profile: DeviceProfile, step: Step) -> Violations | None:
    """Return where a graph for TensorRT breaks TensorRT's rules, None for another runtime.

    ONNX Runtime needs no rules: it is here and shows what it makes of the graph.
    """
    if profile.runtime != "tensorrt":
        return None
    return check_tensorrt(step.onnx, opset=profile.opset)


def broken_in_segments(profile: DeviceProfile, exits: Built | None) -> Violations:
    """Return where a cascade breaks TensorRT's rules, the file's name before that of the node.

    A segment has what the whole model does not: heads, confidences, and cuts between its layers.
    """
    if profile.runtime != "tensorrt" or exits is None:
        return ()
    return tuple(
        replace(violation, node=f"{name}: {violation.node}")
        for name, model in exits.files.items()
        for violation in check_tensorrt(model, opset=profile.opset)
    )


def failed_checks(
    budget: Budget,
    steps: list[Step],
    proof: Parity,
    broken: Violations | None,
    exits: Built | None = None,
) -> list[str]:
    """Return one line for every budget, proof or rule of the target that did not hold."""
    messages = []
    total = steps[-1].record["drop_points"]
    if not budget.allows_drop(total):
        messages.append(
            f"{steps[-1].record['metric']} fell by {total:.2f} points, more than --max-drop "
            f"{budget.max_drop:g}: {_losses(steps)}"
        )
    flips = steps[-1].quality.negative_flips
    if flips is not None and not budget.allows_flips(flips):
        messages.append(
            f"{100 * flips:.2f} % of the samples were right in the original and are wrong now, "
            f"more than --max-nfr {budget.max_nfr:g}"
        )
    if not proof.passed:
        messages.append(
            f"the exported model does not follow the torch model: agreement {proof.agreement:.4f}, "
            f"accuracy gap {proof.accuracy_gap_points:.2f} points"
        )
    return [
        *messages,
        *_missed_speed(steps),
        *_rule_lines(broken or ()),
        *_missed_exits(budget, steps, exits),
    ]


def _missed_exits(budget: Budget, steps: list[Step], exits: Built | None) -> list[str]:
    """Say where exits were asked for and none is worth having, or they lose more than allowed."""
    if exits is None:
        return []
    if exits.cascade is None:
        best = max(exits.facts["candidates"], key=lambda entry: entry["accuracy"])
        budgets = ", ".join(f"{w['name']} {w['max_drop']:g}" for w in exits.facts["wanted"])
        return [
            f"no early exit saves time within the points that may be lost ({budgets}): the best "
            f"head, behind {best['after']}, is right on {100 * best['accuracy']:.2f} % where the "
            f"whole model is on {100 * exits.facts['full_accuracy']:.2f} %; allow more (max_drop, "
            "max_overhead), train longer or choose other places"
        ]
    name = exits.cascade["default"]
    measured = exits.cascade["operating_points"][name]["measured"]
    total = 100 * (steps[0].quality.value - measured["accuracy"])
    if budget.allows_drop(total) or not budget.allows_drop(steps[-1].record["drop_points"]):
        return []
    return [
        f"with early exits (operating point {name}) top1 fell by {total:.2f} points in all, more "
        f"than --max-drop {budget.max_drop:g}"
    ]


def _missed_speed(steps: list[Step]) -> list[str]:
    """Say where a stage was to reach a measured speed, and every process was slower than that."""
    lines = []
    for step in steps:
        facts, latency = _pruning(step), step.record.get("latency")
        if facts.get("source") != "measured" or latency is None:
            continue
        found, wanted = latency["models"][step.record["name"]], facts["wanted_gain"]
        if found["ratio_high"] < wanted:
            lines.append(
                f"prune: {found['ratio']:.2f}x as fast measured ({found['ratio_low']:.2f} to "
                f"{found['ratio_high']:.2f}), asked for {wanted:.2f}x"
            )
    return lines


def _pruning(step: Step) -> dict[str, Any]:
    """Return what the prune stage reports; empty for another step."""
    facts: dict[str, Any] = step.record.get("details", {}).get("prune", {})
    return facts


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
            "the TensorRT engine must be built where TensorRT is, on the device: edgekd build, or "
            "sh build.sh in the bundle's folder there; accuracy here is ONNX Runtime's for the "
            "same graph, and latency was not measured"
        ]
    reason = why_not_here(profile)
    if reason is None:
        return []
    notes = [f"latency was not measured for {profile.title}: {reason}"]
    if "onnxruntime" not in (profile.runtimes or (profile.runtime,)):
        notes.append(
            "accuracy and integer kernels are those of ONNX Runtime on this processor; OpenVINO's "
            "NPU plugin takes no free batch axis: call model.reshape with a batch of 1 before "
            "compile_model(model, 'NPU')"
        )
    return notes


def version_notes(profile: DeviceProfile, step: Step) -> list[str]:
    """Say what in this graph some version of TensorRT does not take, or not take well."""
    if profile.runtime != "tensorrt":
        return []
    notes = []
    old = profile.opset <= NEWEST_OPSET
    if found := unknown_to_oldest(step.onnx, profile.opset) if old else ():
        which = "8.2 (JetPack 4.6)" if profile.opset <= 13 else "8.5 (JetPack 5.1)"
        notes.append(f"the model has {', '.join(found)}, which TensorRT {which} does not know")
    if has_decomposed_layer_norm(step.onnx):
        newer = (
            "; for TensorRT 8.6 and newer give a profile with 'layer_norm: operator'"
            if profile.compute_capability is None or float(profile.compute_capability) >= 8
            else ""  # older GPUs of Jetsons have no newer TensorRT
        )
        notes.append(
            "LayerNorm is written in simple operations, for TensorRT 8.5; in FP16 they can "
            f"overflow, so build.json leaves TensorRT 8 without --fp16{newer}"
        )
    return notes


def sparsity_notes(steps: list[Step]) -> list[str]:
    """Say what the target gains from zeros, or why there are none although the recipe asked."""
    found = [_sparsity(step) for step in steps]
    return [
        f"the sparsify stage {'was left out' if facts.get('skipped') else 'ran'}: {facts['gain']}"
        for facts in found
        if facts
    ]


def pruning_notes(steps: list[Step]) -> list[str]:
    """Say that a speed is predicted, where it is."""
    found = [_pruning(step) for step in steps]
    return [
        f"the prune stage's {facts['steps'][-1]['attempts'][-1]['predicted']:.2f}x is predicted by "
        "the target's latency model, not measured"
        for facts in found
        if facts.get("source") == "predicted"
    ]


def _sparsity(step: Step) -> dict[str, Any]:
    """Return what the sparsify stage reports; empty for another step."""
    facts: dict[str, Any] = step.record.get("details", {}).get("sparsity", {})
    return facts


def quantization_notes(step: Step) -> list[str]:
    """Name the layers that FP16 cannot hold, and the tensors that calibration saw no values of."""
    details = step.record["details"]
    kept, dead = details.get("kept_float32", {}), details.get("zero_ranges", [])
    notes = [f"{name} stays in FP32: {reason}" for name, reason in kept.items()]
    return [*notes, *([zero_range_note(dead)] if dead else [])]


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


def _versions(choice: Choice | None) -> dict[str, str]:
    """Return the versions of what decided the result, OpenVINO among them where it was timed."""
    if choice is None or all(c.runtime != "openvino" for c in choice.measured.candidates):
        return versions()
    return {**versions(), "openvino": openvino.version()}


def build_manifest(
    job: Job,
    steps: list[Step],
    choice: Choice | None,
    proof: Parity,
    broken: Violations | None,
) -> dict[str, Any]:
    """Return the bundle's manifest as plain data, without early exits and the files' hashes."""
    last, data, spec = steps[-1], job.data, job.loaded.spec
    images = {}
    if data.preprocessing is not None:
        # Synthesised images need no preprocessing themselves; real ones for the only input will.
        own = data.image_input or spec.inputs[0].name
        images[data.names.get(own, own)] = data.preprocessing.to_dict()
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
        "versions": _versions(choice),
        "data": data.fingerprints,
        "synthesis": job.synthesis,
        "stages": [step.record for step in steps],
        "accuracy": {ORIGINAL: steps[0].quality.to_dict(), "compressed": last.quality.to_dict()},
        "parity": proof.to_dict(),
        "target_rules": _rules(broken),
        "kernels": _kernels(job.profile, last).to_dict(),
        "latency": last.record["latency"],
        "candidates": None if choice is None else choice.candidates(),
        "deployment": None if choice is None else choice.deployment(),
        "notes": [
            *target_notes(job.profile),
            *doubts(job.recipe, job.profile),
            *pruning_notes(steps),
            *sparsity_notes(steps),
            *version_notes(job.profile, last),
            *quantization_notes(last),
            *data.notes,
        ],
        "failed_checks": [],
    }


def with_exits(
    manifest: dict[str, Any], exits: Built | None, broken: Violations | None
) -> dict[str, Any]:
    """Return the manifest with what early exits came to, if there are any.

    ``broken``: where the whole model and its segments break the target's rules.
    """
    if exits is None:
        return manifest
    notes = manifest["notes"]
    if exits.cascade is not None:
        faster = _faster_without(manifest["candidates"], exits.cascade)
        notes = [*notes, *_exit_notes(exits.cascade, exits.facts), *faster]
    return {
        **manifest,
        "cascade": exits.cascade,
        "early_exits": exits.facts,
        "target_rules": _rules(broken),
        "notes": notes,
    }


def _exit_notes(cascade: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    """Say what could not be promised, and what would be needed for it."""
    notes = []
    for name, point in cascade["operating_points"].items():
        if point["certified"]:
            continue
        needed = point["samples_needed"]
        more = f"about {needed:,} would do" if needed else "more samples like these would not do"
        notes.append(
            f"at most {point['max_drop']:g} points below the model without exits cannot be "
            f"promised with {100 * point['certainty']:g} % certainty from {point['samples']:,} "
            f"samples ({more}); the best guess is the operating point {name}"
        )
    if facts["chosen_on"] == "validation":
        notes.append(
            "thresholds of early exits were chosen on the validation samples; give --exit-data to "
            "choose them on others"
        )
    return notes


def _faster_without(candidates: Mapping[str, Any] | None, cascade: Mapping[str, Any]) -> list[str]:
    """Say where the model without exits is faster on another runtime than the cascade is.

    Both are compared through the compressed model on ONNX Runtime, which each was timed against.
    """
    times = cascade["operating_points"][cascade["default"]]["measured"].get("latency")
    rows = [] if candidates is None else candidates["rows"]
    chosen = next((row for row in rows if row["chosen"]), None)
    own = [r for r in rows if r["model"] == "compressed" and r["runtime"] == "onnxruntime"]
    if times is None or chosen is None or chosen["runtime"] == "onnxruntime" or not own:
        return []
    gain = (chosen["ratio"] or 1.0) / (own[0]["ratio"] or 1.0)
    if gain * times["ratio"] <= 1:
        return []
    return [
        f"the {chosen['model']} model without exits on {chosen['runtime']} ({chosen['precision']}) "
        f"is {gain * times['ratio']:.2f}x as fast as the cascade on onnxruntime here: "
        f"load(bundle, {chosen['model']!r}, runtime={chosen['runtime']!r}, "
        f"precision={chosen['precision']!r})"
    ]
