"""From a model with exits to a cascade: which exits, which thresholds, what they save."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgekd.bench import Protocol, measure, percentile
from edgekd.bench.machine import runs_here
from edgekd.cache import step_key
from edgekd.cascade.costs import PartCosts, computed_parts, measure_parts
from edgekd.cascade.measured import measure_cascade
from edgekd.cascade.points import FULL, Chosen, choose_points
from edgekd.cascade.recorded import Recorded, record
from edgekd.export.kernels import read_kernels, read_placement
from edgekd.export.segments import ExitOutput, Segment, split
from edgekd.export.single_file import single_file
from edgekd.job import Job
from edgekd.progress import Progress
from edgekd.recipe import EarlyExitStage, OperatingPoint
from edgekd.steps import EXITS, EXITS_HERE, Step

SINGLE = "cascade.onnx"


@dataclass(frozen=True)
class Built:
    """``files`` of the bundle by name, the manifest's ``cascade``, and the report's facts.

    Without files no exit was worth having; ``facts`` tell why.
    """

    files: Mapping[str, bytes]
    cascade: Mapping[str, Any] | None
    facts: Mapping[str, Any]


def build_cascade(
    job: Job, steps: Sequence[Step], base: Mapping[str, Any], progress: Progress
) -> Built | None:
    """Return the cascade of a job whose last step has early exits, None for another.

    ``base`` is a manifest's data, enough to read a bundle by. What is measured and chosen here
    is kept in the job's cache. Raises ExportError for exits that cannot be cut off, and
    MeasurementError.
    """
    step = steps[-1]
    options = next((s for s in job.recipe.stages if isinstance(s, EarlyExitStage)), None)
    if options is None or not step.exits:
        return None
    key = _key(job, step, options, _budgets(job, options, step))
    if job.cache.folder(key) is None:
        built = _build(job, step, options, base, progress)
        record_ = {"cascade": built.cascade, "facts": built.facts, "files": sorted(built.files)}
        job.cache.store(key, built.files, record_)
    else:
        progress.note("thresholds of early exits: already chosen, taken from the cache")
    folder, stored = job.cache.folder(key), job.cache.record(key)
    assert folder is not None
    files = {name: (folder / name).read_bytes() for name in stored["files"]}
    return Built(files, stored["cascade"], stored["facts"])


def _key(job: Job, step: Step, options: EarlyExitStage, wanted: Sequence[OperatingPoint]) -> str:
    return step_key(
        {
            "step": step.folder.name,
            "options": options.model_dump(mode="json"),
            "points": [point.model_dump(mode="json") for point in wanted],
            "exit_data": job.data.fingerprints.get("exits"),
            "single_file": job.request.single_file,
            "threads": job.profile.threads,
        }
    )


def _budgets(job: Job, options: EarlyExitStage, step: Step) -> tuple[OperatingPoint, ...]:
    """Return the operating points; the first takes what is left of --max-drop, if it is given."""
    first, *others = options.operating_points
    if job.budget.max_drop is not None:
        left = max(0.0, job.budget.max_drop - max(0.0, step.record["drop_points"]))
        first = first.model_copy(update={"max_drop": left})
    return first, *others


def _build(
    job: Job, step: Step, options: EarlyExitStage, base: Mapping[str, Any], progress: Progress
) -> Built:
    recorded = record(job, step, progress)
    parts = _costs(job, step, progress)
    wanted = _budgets(job, options, step)
    chosen = choose_points(recorded, parts, options, wanted, job.recipe.seed)
    facts = _about(job, step, recorded, parts, wanted)
    if chosen is None:
        progress.note(
            "early exits: none saves time within the operating points' budgets; the bundle has the "
            "model without exits"
        )
        return Built({}, None, facts)
    own = [tensor.name for tensor in job.loaded.spec.outputs]
    outputs = [
        ExitOutput(step.exits[i].name, temperature, options.confidence)
        for i, temperature in zip(chosen.exits, chosen.temperatures, strict=True)
    ]
    segments = split((step.folder / EXITS).read_bytes(), own, outputs)
    timed = runs_here(job.profile)
    cascade = _manifest(job, step, options, chosen, segments, timed, progress)
    files = {f"segment_{i}.onnx": segment.model for i, segment in enumerate(segments)}
    if job.request.single_file:
        point = cascade["operating_points"][_single_file_point(chosen)]
        files[SINGLE] = single_file(segments, job.loaded.spec, point["thresholds"])
    judged = split((step.folder / EXITS_HERE).read_bytes(), own, outputs)
    here = {f"segment_{i}.onnx": segment.model for i, segment in enumerate(judged)}
    found = measure_cascade(
        job,
        {"model.onnx": step.onnx, **here},
        {**base, "models": {"compressed": "model.onnx"}, "cascade": cascade, "deployment": None},
        [point.name for point in chosen.points],
        step.outputs,
        step.targets,
        timed=timed,
        progress=progress,
    )
    for name, measured in found.items():
        cascade["operating_points"][name]["measured"] = measured
    facts = {
        **facts,
        "expected_full": chosen.costs[-1],
        "without_exits": chosen.whole,
        "kept": [step.exits[i].name for i in chosen.exits],
        "costs": list(chosen.costs[:-1]),
        "curve": [asdict(point) for point in chosen.curve],
        "single_file_point": _single_file_point(chosen) if job.request.single_file else None,
    }
    return Built(files, cascade, facts)


def _costs(job: Job, step: Step, progress: Progress) -> PartCosts:
    own = [tensor.name for tensor in job.loaded.spec.outputs]
    names = [exit.name for exit in step.exits]
    if runs_here(job.profile):
        return measure_parts(
            (step.folder / EXITS).read_bytes(),
            own,
            names,
            threads=job.profile.threads,
            seed=job.recipe.seed,
            progress=progress,
        )
    return computed_parts(names, [exit.share for exit in step.exits])


def _manifest(
    job: Job,
    step: Step,
    options: EarlyExitStage,
    chosen: Chosen,
    segments: Sequence[Segment],
    timed: bool,
    progress: Progress,
) -> dict[str, Any]:
    """Return the manifest's field ``cascade``, as plain data."""
    latencies = _latencies(job, segments, progress) if timed else [None] * len(segments)
    entries = []
    for index, (segment, latency) in enumerate(zip(segments, latencies, strict=True)):
        link = None if segment.link is None else asdict(segment.link)
        entries.append(
            {
                "file": f"segment_{index}.onnx",
                "link": link,
                "latency_ms": latency,
                "kernels": _kernels(segment.model, job.profile.runtime),
            }
        )
    return {
        "confidence": options.confidence,
        "exits": [
            {**asdict(step.exits[i]), "temperature": temperature}
            for i, temperature in zip(chosen.exits, chosen.temperatures, strict=True)
        ],
        "segments": entries,
        "operating_points": {
            point.name: {"thresholds": list(point.thresholds), **point.facts}
            for point in chosen.points
        },
        "default": chosen.default,
    }


def _kernels(model: bytes, runtime: str) -> dict[str, int]:
    """Return how many convolutions and matrix products there are, and how many on integers."""
    found = read_kernels(model) if runtime == "onnxruntime" else read_placement(model, runtime)
    counts = found.to_dict()
    return {key: counts[key] for key in ("integer_layers", "layers_total")}


def _latencies(
    job: Job, segments: Sequence[Segment], progress: Progress
) -> list[dict[str, float | None]]:
    """Return p50 and p99 of one call of each segment, in milliseconds."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for index, segment in enumerate(segments):
            paths[str(index)] = Path(folder) / f"{index}.onnx"
            paths[str(index)].write_bytes(segment.model)
        protocol = Protocol(
            threads=job.profile.threads, processes=3, rounds=200, primers=1, seed=job.recipe.seed
        )
        report = measure(
            paths, baseline="0", protocol=protocol, progress=progress, same_inputs=False
        )
    found = []
    for name in paths:
        times = [time for row in report.models[name].samples_ms for time in row]
        found.append({"p50": report.models[name].median_ms, "p99": percentile(times, 99)})
    return found


def _single_file_point(chosen: Chosen) -> str:
    """Return the point whose thresholds the single file has: the first that is not ``full``."""
    return next((point.name for point in chosen.points if point.name != FULL), FULL)


def _about(
    job: Job,
    step: Step,
    recorded: Recorded,
    parts: PartCosts,
    wanted: Sequence[OperatingPoint],
) -> dict[str, Any]:
    """Return what is known of all possible exits, kept or not."""
    *exits, end = recorded.accuracies()
    return {
        "chosen_on": "validation" if job.exit_samples is None else "exit data",
        "samples": len(recorded.labels),
        "full_accuracy": end,
        "unit": parts.unit,
        "wanted": [point.model_dump(mode="json") for point in wanted],
        "candidates": [
            {**asdict(exit), "accuracy": accuracy, "cost": parts.of((index,))[0]}
            for index, (exit, accuracy) in enumerate(zip(step.exits, exits, strict=True))
        ],
    }
