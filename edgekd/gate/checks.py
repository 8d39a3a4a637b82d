"""What a gate compares besides latency: accuracy, answers that flip, size and memory."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy.typing as npt

from edgekd.bench.place import Place
from edgekd.bench.protocol import Protocol
from edgekd.bench.runner import Variant, as_job, run_worker
from edgekd.errors import BundleError, NoVerdictError
from edgekd.evaluate import check_labels, open_for, run_over
from edgekd.gate.decision import Verdict
from edgekd.gate.result import Check
from edgekd.gate.subject import Subject
from edgekd.metrics import Budget, Quality, compare_outputs, drop_points
from edgekd.progress import Progress
from edgekd.runtime import Manifest, load

Array = npt.NDArray[Any]

_MEMORY_PROCESSES = 3
_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Growth:
    """How much larger the candidate may be, as fractions; None is no limit."""

    max_size: float | None = None
    max_memory: float | None = None


def quality_checks(
    baseline: Subject, candidate: Subject, data: str, budget: Budget, progress: Progress
) -> list[Check]:
    """Compare what both bundles answer on the validation part of ``data``, as production does.

    Accuracy may drop by ``budget.max_drop`` points (0 where no limit is given), and the answers
    that turn from right to wrong are limited by ``budget.max_nfr``. Raises BundleError for ONNX
    files, which do not say how samples become inputs, NoVerdictError for outputs of other shapes.
    """
    old, new = _answers(baseline, data, progress), _answers(candidate, data, progress)
    shapes = [[output.shape[1:] for output in outputs] for outputs, _ in (old, new)]
    if shapes[0] != shapes[1]:
        raise NoVerdictError(
            f"the models have different outputs: {shapes[0]} and {shapes[1]} (without the batch)"
        )
    targets = old[1]
    before = compare_outputs(old[0], old[0], targets)
    after = compare_outputs(new[0], old[0], targets)
    checks = [_accuracy(before, after, budget)]
    if after.negative_flips is not None and budget.max_nfr is not None:
        checks.append(_flips(after, budget))
    return checks


def size_check(baseline: Subject, candidate: Subject, limit: float) -> Check:
    """Compare the sizes of the model files."""
    return _growth("size", baseline.size, candidate.size, limit)


def memory_check(
    baseline: Subject,
    candidate: Subject,
    limit: float,
    protocol: Protocol,
    progress: Progress,
    place: Place,
) -> Check:
    """Compare the memory that loading and running takes, in fresh processes on ``place``.

    Raises MeasurementError when a model cannot be run.
    """
    with progress.task("Measuring memory", 2 * _MEMORY_PROCESSES) as advance:
        peaks: dict[Path, list[int]] = {baseline.path: [], candidate.path: []}
        for _ in range(_MEMORY_PROCESSES):
            for subject in (baseline, candidate):
                peaks[subject.path].append(_peak(subject.variant, protocol, place))
                advance(1)
    before, after = (statistics.median(peaks[s.path]) for s in (baseline, candidate))
    return _growth("peak memory", before, after, limit)


def _peak(variant: Variant, protocol: Protocol, place: Place) -> int:
    job = {
        "model": as_job({"model": variant}, place)["model"],
        "protocol": replace(protocol, rounds=3, warmup_ms=0).to_dict(),
    }
    return int(run_worker("edgekd.bench.memory_worker", job, _TIMEOUT_S, place)["bytes"])


def _answers(
    subject: Subject, data: str, progress: Progress
) -> tuple[tuple[Array, ...], Array | None]:
    manifest = _manifest(subject)
    dataset = open_for(manifest, data)
    with load(subject.path) as network:
        outputs, targets = run_over(network, dataset, f"Evaluating {subject.path}", progress)
    check_labels(targets, outputs[0], manifest)
    return outputs, targets


def _manifest(subject: Subject) -> Manifest:
    if subject.manifest is None:
        raise BundleError(
            f"{subject.path} is no bundle: accuracy needs to know how samples become inputs; "
            "leave out --data, or give bundles"
        )
    return subject.manifest


def _accuracy(before: Quality, after: Quality, budget: Budget) -> Check:
    allowed = budget.max_drop if budget.max_drop is not None else 0.0
    drop = drop_points(after, before)
    verdict: Verdict = "pass" if Budget(max_drop=allowed).allows_drop(drop) else "regression"
    return Check(
        name=after.metric,
        verdict=verdict,
        baseline=f"{100 * before.value:.2f} %",
        candidate=f"{100 * after.value:.2f} %",
        change=f"{-drop + 0.0:+.2f} points",
        limit=f"{-allowed + 0.0:+.2f} points",
        note=f"on {after.samples} validation samples",
        values={"baseline": before.value, "candidate": after.value, "drop_points": drop},
    )


def _flips(after: Quality, budget: Budget) -> Check:
    flips = after.negative_flips or 0.0
    return Check(
        name="negative flips",
        verdict="pass" if budget.allows_flips(flips) else "regression",
        baseline="-",
        candidate=f"{100 * flips:.2f} %",
        change="",
        limit=f"{budget.max_nfr:g} %",
        note="right in the baseline, wrong in the candidate",
        values={"negative_flips": flips},
    )


def _growth(name: str, before: float, after: float, limit: float) -> Check:
    growth = after / before - 1 if before else 0.0
    return Check(
        name=name,
        verdict="regression" if growth > limit + 1e-9 else "pass",
        baseline=f"{before / 1e6:.2f} MB",
        candidate=f"{after / 1e6:.2f} MB",
        change=f"{100 * growth:+.2f} %",
        limit=f"{100 * limit:+.2f} %",
        note="",
        values={"baseline": before, "candidate": after, "growth": growth},
    )
