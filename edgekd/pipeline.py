"""The main path, to be read downwards: load, run the stages, export, prove, measure, bundle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekd import stages
from edgekd.building.files import with_build_files
from edgekd.building.target_here import build_if_here
from edgekd.cascade import build_cascade
from edgekd.choice import choose
from edgekd.device import DeviceProfile
from edgekd.errors import DataError
from edgekd.exits.attach import without_exits
from edgekd.export.bundle import check_destination, write_bundle
from edgekd.export.parity import Parity, parity, predict_all, torch_predictor
from edgekd.export.program import shareable_program
from edgekd.graph.program import to_module
from edgekd.job import CompressRequest, Job, complete, draft, prepare
from edgekd.processes.group import by_first, connect, is_first
from edgekd.progress import Progress, Silent
from edgekd.recipe import Recipe
from edgekd.report.page import render_report
from edgekd.state import CompressionState
from edgekd.steps import (
    ORIGINAL,
    Step,
    finished_key,
    original_step,
    run_stage,
    smaller_program,
)
from edgekd.summary import (
    broken_in_segments,
    broken_rules,
    build_manifest,
    failed_checks,
    with_exits,
)
from edgekd.training_settings import DistillStage


@dataclass(frozen=True)
class PlanStep:
    """One step of a run: ``cached`` tells that an earlier run has finished it."""

    name: str
    cached: bool
    description: str


@dataclass(frozen=True)
class Plan:
    """What ``compress`` would do; ``notes`` are what it would say before it starts."""

    recipe: Recipe
    profile: DeviceProfile
    steps: tuple[PlanStep, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class CompressResult:
    """A finished run: the bundle, its manifest, and the checks that failed (none if ``passed``)."""

    out: Path
    manifest: Mapping[str, Any]
    messages: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Tell whether the accuracy budget, the export proof and the target's rules held."""
        return not self.messages


def compress(request: CompressRequest, progress: Progress | None = None) -> CompressResult:
    """Run the whole chain and write the bundle.

    Raises an EdgekdError for whatever the user can set right. A missed budget is no error: the
    bundle is written and the result says what failed. In a run of several processes all of them
    call this; the first one reports and writes, and all get the result.
    """
    connect()
    progress = progress if progress is not None and is_first() else Silent()
    check_destination(request.out, overwrite=True)
    job = prepare(request, progress)
    for note in job.data.notes:
        progress.note(note)

    steps = run_steps(job, progress)
    return by_first(lambda: _bundle(job, steps, progress))


def _bundle(job: Job, steps: list[Step], progress: Progress) -> CompressResult:
    """Choose, prove, and write what the steps have made."""
    request = job.request
    choice = choose(job, steps, progress)
    proof = _prove(job, steps[-1], progress)
    broken = broken_rules(job.profile, steps[-1])
    manifest = build_manifest(job, steps, choice, proof, broken)
    exits = build_cascade(job, steps, manifest, progress)
    if broken is not None:
        broken = (*broken, *broken_in_segments(job.profile, exits))
    messages = failed_checks(job.budget, steps, proof, broken, exits)
    manifest = with_exits(manifest, exits, broken) | {"failed_checks": messages}
    manifest, for_engines = with_build_files(job, steps, manifest, progress)
    files: dict[str, bytes | Path] = {
        "model.onnx": steps[-1].onnx,
        "baseline.onnx": steps[0].onnx,
        "report.html": render_report(manifest).encode("utf-8"),
        **for_engines,
    }
    if (smaller := smaller_program(steps)) is not None:
        files["model.pt2"] = shareable_program(smaller)
    if exits is not None:
        files.update(exits.files)
    out = write_bundle(request.out, files, manifest, overwrite=True)
    unlike = build_if_here(out, job.profile, request.data, progress)
    written = json.loads((out / "manifest.json").read_text("utf-8"))
    return CompressResult(out, written, (*messages, *unlike))


def run_steps(job: Job, progress: Progress) -> list[Step]:
    """Run all stages of a job, or take them from the cache; the original comes first."""
    steps = [original_step(job, progress)]
    state = first_state(job, steps[0])
    if job.request.max_nfr is not None and not state.classification:
        raise DataError(
            "--max-nfr needs class labels: without them no prediction is right or wrong"
        )
    asked = state
    for stage in job.recipe.stages:
        stages.requires(asked, stage)
        if isinstance(stage, DistillStage) and stage.student is not None:
            assert state.student is not None  # what the stages behind it are given
            asked = replace(state, model=state.student, teacher=state.student)
    for count, stage in enumerate(job.recipe.stages, start=1):
        step = run_stage(job, state, stage, count, steps, progress)
        state = _next_state(state, step)
        steps.append(step)
    return steps


def plan(request: CompressRequest) -> Plan:
    """Return what ``compress`` would do, and which steps an earlier run has finished.

    Images are not synthesised for it. While they are missing, nothing behind them is cached.
    """
    sketch = draft(request)
    images, cache, recipe = sketch.images, sketch.cache, sketch.recipe
    steps = []
    if images is not None:
        cached = cache.folder(images.key) is not None
        steps.append(PlanStep("synthesis", cached, images.describe()))
    names = [ORIGINAL, *(stage.stage for stage in recipe.stages)]
    descriptions = ["export and evaluate the model as it is"]
    descriptions += [stages.describe(stage, sketch.profile) for stage in recipe.stages]
    if all(step.cached for step in steps):
        job = complete(sketch, Silent())
        finished = [finished_key(job, count) is not None for count in range(len(names))]
    else:
        finished = [False] * len(names)
    steps += map(PlanStep, names, finished, descriptions)
    return Plan(recipe, sketch.profile, tuple(steps), sketch.notes())


def first_state(job: Job, original: Step) -> CompressionState:
    """Return what the first stage of a job is given."""
    return CompressionState(
        model=original.model,
        teacher=original.model,
        spec=job.loaded.spec,
        example=job.loaded.example,
        data=job.data,
        profile=job.profile,
        seed=job.recipe.seed,
        classification=original.quality.metric == "top1",
        cache=job.cache,
        budget=job.budget,
        original_outputs=original.outputs,
        original=original.model,
        student=None if job.student is None else to_module(job.student.program),
        others=job.teachers,
        dense=original.quality.metric == "miou",
        regression=original.quality.metric == "r2",
    )


def _next_state(state: CompressionState, step: Step) -> CompressionState:
    """Return what the next stage is given; the record tells the same of a step from the cache.

    A network that only distill stages have made is what later stages start and learn from.
    """
    whole = step.record["name"] == "distill" and state.model is state.teacher
    return replace(
        state.with_model(step.model),
        teacher=step.model if whole else state.teacher,
        keep_zeros=state.keep_zeros or step.made_zeros,
        exits=step.exits,
    )


def _prove(job: Job, step: Step, progress: Progress) -> Parity:
    """Compare the exported model with the torch model that it was exported from."""
    spec, data = job.loaded.spec, job.data
    own = without_exits(step.model, len(spec.outputs))
    in_torch, _ = predict_all(torch_predictor(own), data, data.validation, spec, progress)
    float16 = job.profile.float_type == "float16"
    return parity(step.outputs, in_torch, step.targets, float16=float16)
