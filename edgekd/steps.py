"""Steps of a run: each is exported, evaluated and measured, and stored when it is finished."""

from __future__ import annotations

import io
import tempfile
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import fx

from edgekd import stages
from edgekd.bench.machine import runs_here
from edgekd.bench.measurement import LatencyReport
from edgekd.bench.protocol import Protocol
from edgekd.bench.runner import measure
from edgekd.device import DeviceProfile
from edgekd.errors import EdgekdError, ExportError, ModelError, StageError
from edgekd.exits.exit import Exit
from edgekd.export.deployed import export_for
from edgekd.export.finite import not_finite
from edgekd.export.onnx import export_onnx
from edgekd.export.parity import Array, Outputs, onnx_predictor, predict_all
from edgekd.export.segments import without_exits
from edgekd.graph.program import output_tensors, to_module, to_program
from edgekd.job import Job
from edgekd.metrics import Quality, compare_outputs, drop_points
from edgekd.model.load import open_model
from edgekd.processes.group import by_first
from edgekd.progress import Progress
from edgekd.recipe import Stage
from edgekd.state import CompressionState

ORIGINAL = "original"
PROGRAM = "model.pt2"
EXITS = "exits.onnx"  # for the target, with the logits of every early exit
EXITS_HERE = "exits_here.onnx"  # what computes here what the target will compute
Evaluated = tuple[Outputs, Array | None]  # every output, and the targets


@dataclass(frozen=True)
class Step:
    """A finished step: the model as stored, its ONNX, its outputs and its record.

    ``onnx`` is without early exits, which are in ``model`` and in files of ``folder``. ``outputs``
    are the ONNX model's for every validation sample, ``targets`` the samples' own.
    """

    model: fx.GraphModule
    onnx: bytes
    folder: Path
    outputs: Outputs
    targets: Array | None
    record: dict[str, Any]

    @property
    def quality(self) -> Quality:
        """Return how good the model is on the validation samples."""
        return Quality(**self.record["quality"])

    @property
    def exits(self) -> tuple[Exit, ...]:
        """Return the early exits, by depth."""
        return tuple(Exit(**entry) for entry in self.record.get("exits", ()))

    @property
    def made_zeros(self) -> bool:
        """Tell whether the step set weights to zero in a pattern."""
        return bool(self.record["details"].get("sparsity", {}).get("layers"))


def smaller_program(steps: Sequence[Step]) -> Path | None:
    """Return the file of the last float program that a stage made smaller, None without one.

    It is a torch.export archive, which torch opens alone: its architecture is stored with it.
    """
    changed = {"prune", "student"}
    found = [s for s in steps if changed & s.record["details"].keys() or s.made_zeros]
    return found[-1].folder / PROGRAM if found else None


def finished_key(job: Job, count: int) -> str | None:
    """Return the key of the step after ``count`` stages if an earlier run has finished it.

    A step that holds the budget as it is does not depend on it. One that misses the budget counts
    as finished only where a stage has searched for a better one under this budget.
    """
    plain = job.key(count)
    uses_budget = any(stages.uses_budget(stage) for stage in job.recipe.stages[:count])
    if job.cache.folder(plain) is not None:
        record = job.cache.record(plain)
        flips = record["quality"]["negative_flips"]
        if not uses_budget or job.budget.holds(record["drop_points"], flips):
            return plain
    searched = job.key(count, for_budget=True)
    return searched if uses_budget and job.cache.folder(searched) is not None else None


def original_step(job: Job, progress: Progress) -> Step:
    """Export and evaluate the model as it came: what every later step is compared with."""
    key = job.key(0)
    by_first(lambda: _make_original(job, key, progress))
    return _load_step(job, key)


def _make_original(job: Job, key: str, progress: Progress) -> None:
    if job.cache.folder(key) is None:
        started = time.monotonic()
        module = to_module(job.loaded.program)
        onnx = job.frozen or export_onnx(
            module,
            job.loaded.example,
            job.loaded.spec,
            opset=job.profile.opset,
            layer_norm=job.profile.layer_norm,
        )
        outputs, targets = _evaluate(job, onnx, progress)
        if failure := not_finite(onnx, outputs, job.data):
            raise ModelError(
                f"the model as it came gives {failure}; check its weights and --mean and --std"
            )
        quality = compare_outputs(outputs, outputs, targets)
        record = _record(ORIGINAL, {}, onnx, quality, quality, None, time.monotonic() - started)
        _store(job, key, module, onnx, (outputs, targets), record)


def run_stage(
    job: Job,
    state: CompressionState,
    stage: Stage,
    count: int,
    finished: Sequence[Step],
    progress: Progress,
) -> Step:
    """Run one stage, or take it from the cache; always continue from what was stored.

    ``finished`` are the steps before it, the original first. A stage that returns the model as it
    was is not evaluated and measured again. Several processes run a stage together, and the first
    one measures and stores what came out of it.
    """
    if (key := by_first(lambda: finished_key(job, count))) is not None:
        progress.note(f"{stage.stage}: already done, taken from the cache")
        return _load_step(job, key)
    started = time.monotonic()
    after = stages.run(replace(state, key=job.key(count)), stage, progress)
    if after.model is state.model:
        return _unchanged(job, finished[-1], stage.stage, count, after.details)
    key = by_first(lambda: _finish(job, state, after, stage, count, finished[0], started, progress))
    return _load_step(job, key)


def _finish(
    job: Job,
    state: CompressionState,
    after: CompressionState,
    stage: Stage,
    count: int,
    original: Step,
    started: float,
    progress: Progress,
) -> str:
    """Export, evaluate, measure and store what a stage has made; return the key of the step."""
    _ensure_same_outputs(state, after, stage)
    exported = export_for(job.profile, after.model, state.example, after.full_spec)
    outputs, targets = _evaluate(job, exported.here, progress)
    if failure := not_finite(exported.here, outputs, job.data):
        raise _no_number(job.profile, stage, failure)
    onnx, details = exported.onnx, after.details
    more: dict[str, bytes] = {}
    if after.exits:
        more = {EXITS: exported.onnx, EXITS_HERE: exported.here}
        onnx = without_exits(exported.onnx, [tensor.name for tensor in state.spec.outputs])
    if job.profile.float_type == "float16":
        details = {**details, "kept_float32": exported.kept}
    quality = compare_outputs(outputs, original.outputs, targets)
    seconds = time.monotonic() - started
    latency = _latency(job, original, stage.stage, onnx, progress)
    record = _record(stage.stage, details, onnx, quality, original.quality, latency, seconds)
    record["exits"] = [asdict(exit) for exit in after.exits]
    key = job.key(count, for_budget="budget" in after.details)
    _store(job, key, after.model, onnx, (outputs, targets), record, more)
    job.cache.discard_partial(job.key(count))
    return key


def _unchanged(job: Job, before: Step, name: str, count: int, details: dict[str, Any]) -> Step:
    """Store the step before again, for a stage that had no reason to change anything."""
    key = job.key(count)
    record = {**before.record, "name": name, "details": details, "latency": None, "seconds": 0.0}
    more = {n: (before.folder / n).read_bytes() for n in (EXITS, EXITS_HERE) if before.exits}
    _store(job, key, before.model, before.onnx, (before.outputs, before.targets), record, more)
    return _load_step(job, key)


@torch.no_grad()
def _ensure_same_outputs(before: CompressionState, after: CompressionState, stage: Stage) -> None:
    """Hold a stage to its promise: the same number of outputs, shapes and dtypes."""
    own = len(before.spec.outputs)
    was = output_tensors(before.model(*before.example))[:own]
    found = output_tensors(after.model(*before.example))
    now = found[:own]
    same = len(found) == own + len(after.exits) and all(
        a.shape == b.shape and a.dtype == b.dtype for a, b in zip(was, now, strict=True)
    )
    if not same:
        raise StageError(f"{stage.stage}: changed the shape or type of the model's outputs")


def _no_number(profile: DeviceProfile, stage: Stage, failure: str) -> EdgekdError:
    if profile.float_type == "float16":
        return ExportError(
            f"in FP16 the model gives {failure}; use a device profile with 'float_type: float32'"
        )
    return StageError(f"{stage.stage}: the model gives {failure}; try another recipe")


def _evaluate(job: Job, onnx: bytes, progress: Progress) -> Evaluated:
    predict = onnx_predictor(onnx, job.loaded.spec, job.profile.runtime)
    return predict_all(predict, job.data, job.data.validation, job.loaded.spec, progress)


def _latency(
    job: Job, original: Step, name: str, onnx: bytes, progress: Progress
) -> LatencyReport | None:
    """Measure a step against the original, where this machine is one like the target."""
    if not runs_here(job.profile):
        return None
    protocol = Protocol(threads=job.profile.threads, seed=job.recipe.seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(onnx)
        models = {ORIGINAL: original.folder / "model.onnx", name: path}
        return measure(models, baseline=ORIGINAL, protocol=protocol, progress=progress)


def _record(
    name: str,
    details: dict[str, Any],
    onnx: bytes,
    quality: Quality,
    original: Quality,
    latency: LatencyReport | None,
    seconds: float,
) -> dict[str, Any]:
    return {
        "name": name,
        "metric": quality.metric,
        "accuracy": quality.value,
        "drop_points": drop_points(quality, original),
        "quality": quality.to_dict(),
        "model_bytes": len(onnx),
        "compressed_bytes": len(zlib.compress(onnx, 9)),
        "latency": None if latency is None else latency.to_dict(samples=True),
        "seconds": round(seconds, 2),
        "details": details,
    }


def _store(
    job: Job,
    key: str,
    module: fx.GraphModule,
    onnx: bytes,
    evaluated: Evaluated,
    record: dict[str, Any],
    more: Mapping[str, bytes] = MappingProxyType({}),
) -> None:
    program, array = io.BytesIO(), io.BytesIO()
    torch.export.save(to_program(module, job.loaded.example), program)
    outputs, targets = evaluated
    arrays = {f"output_{i}": output for i, output in enumerate(outputs)}
    if targets is not None:
        arrays["targets"] = targets
    np.savez(array, **arrays)  # type: ignore[arg-type]  # its stub names allow_pickle
    files = {PROGRAM: program.getvalue(), "model.onnx": onnx, "outputs.npz": array.getvalue()}
    job.cache.store(key, {**files, **more}, record)


def _load_step(job: Job, key: str) -> Step:
    folder = job.cache.folder(key)
    assert folder is not None
    program = open_model(folder / PROGRAM).program
    assert program is not None
    return Step(
        to_module(program),
        (folder / "model.onnx").read_bytes(),
        folder,
        *_load_evaluated(folder / "outputs.npz"),
        job.cache.record(key),
    )


def _load_evaluated(path: Path) -> Evaluated:
    with np.load(path, allow_pickle=False) as arrays:
        names = [name for name in arrays.files if name != "targets"]
        outputs = tuple(arrays[f"output_{i}"] for i in range(len(names)))
        return outputs, arrays["targets"] if "targets" in arrays.files else None
