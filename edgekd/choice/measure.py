"""Evaluate and time the candidates on this machine, once; later runs take it from the cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from edgekd.bench import Protocol, Variant, measure
from edgekd.bench.machine import runs_here
from edgekd.cache import step_key
from edgekd.choice.candidates import Candidate, Measured
from edgekd.choice.decide import Choice, decide
from edgekd.errors import StageError
from edgekd.export.kernels import read_kernels
from edgekd.export.layer_formats import LAYERS
from edgekd.export.parity import Outputs, Predict, predict_all
from edgekd.job import Job
from edgekd.metrics import Quality, compare_outputs
from edgekd.progress import Progress
from edgekd.runtime import openvino
from edgekd.runtime.tensors import one_line
from edgekd.spec import ModelSpec
from edgekd.steps import Step

_INTEGERS = ("u8", "i8")


def choose(job: Job, steps: Sequence[Step], progress: Progress) -> Choice | None:
    """Return what production is to run, None where the target cannot be measured here.

    ``steps`` are the original and the finished stages. A candidate that OpenVINO cannot run is left
    out; where OpenVINO was asked for, that is a StageError.
    """
    if not runs_here(job.profile):
        return None
    key = step_key(
        {
            # Not the job's keys: a budget can have changed the last step.
            "steps": [step.folder.name for step in steps],
            "runtime": job.request.runtime,
            "openvino": openvino.version() if _openvino_wanted(job) else None,
        }
    )
    if job.cache.folder(key) is None:
        job.cache.store(key, {}, _measure(job, steps, progress).to_dict())
    measured = Measured.from_dict(job.cache.record(key))
    quantized = any(stage.stage == "quantize" for stage in job.recipe.stages)
    return decide(measured, job.budget, verb="Quantizing" if quantized else "Compressing")


def _openvino_wanted(job: Job) -> bool:
    return job.request.runtime != "onnxruntime" and openvino.is_installed()


def _measure(job: Job, steps: Sequence[Step], progress: Progress) -> Measured:
    models = {"baseline": steps[0], "compressed": steps[-1]}
    quality: dict[Candidate, Quality] = {}
    skipped: list[str] = []
    if job.request.runtime != "openvino":
        for role, step in models.items():
            quality[_on_onnxruntime(role, step)] = step.quality
    if _openvino_wanted(job):
        for role, step in models.items():
            try:
                for candidate, outputs in _on_openvino(job, role, step, progress):
                    found = compare_outputs(outputs, steps[0].outputs, steps[0].targets)
                    quality[candidate] = found
            except Exception as error:  # whatever OpenVINO raises
                if job.request.runtime == "openvino":
                    raise StageError(f"OpenVINO cannot run {role}: {one_line(error)}") from error
                skipped.append(f"{role} on OpenVINO: {one_line(error)}")
    variants: dict[str, Path | Variant] = {
        c.name: Variant(models[c.model].folder / "model.onnx", c.runtime, c.precision)
        for c in quality
    }
    protocol = Protocol(threads=job.profile.threads, seed=job.recipe.seed, primers=1)
    first = next(iter(variants))
    return Measured(
        candidates=tuple(quality),
        quality={candidate.name: found for candidate, found in quality.items()},
        latency=measure(variants, baseline=first, protocol=protocol, progress=progress),
        skipped=tuple(skipped),
    )


def _on_onnxruntime(role: str, step: Step) -> Candidate:
    """Return the candidate; its outputs are the step's own."""
    integers, layers = read_kernels(step.onnx).count(*LAYERS)
    return Candidate(role, "onnxruntime", "f32", integers, layers)


def _on_openvino(
    job: Job, role: str, step: Step, progress: Progress
) -> Iterator[tuple[Candidate, Outputs]]:
    """Yield a candidate and its outputs: in f32, and in bf16 where that can make a difference."""
    spec, data = job.loaded.spec, job.data
    for precision in openvino.PRECISIONS:
        if precision == "bf16" and not openvino.has_bf16():
            return
        session = openvino.open_openvino(step.onnx, precision)
        found = session.layer_precisions()
        integers, layers = sum(found.get(name, 0) for name in _INTEGERS), sum(found.values())
        candidate = Candidate(role, "openvino", precision, integers, layers)

        predict = _predictor(session, spec)
        yield candidate, predict_all(predict, data, data.validation, spec, progress)[0]
        if integers == layers:  # nothing is left that bf16 could speed up
            return


def _predictor(session: openvino.OpenVINOSession, spec: ModelSpec) -> Predict:
    inputs_named = [tensor.name for tensor in spec.inputs]
    outputs_named = [tensor.name for tensor in spec.outputs]

    def predict(inputs: tuple[Tensor, ...]) -> Outputs:
        feed = {name: tensor.numpy() for name, tensor in zip(inputs_named, inputs, strict=True)}
        return tuple(session.run(outputs_named, feed))

    return predict
