"""The cascade as production will run it, over all validation samples: answers and times."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.bench.cascade_worker import MODEL
from edgekd.bench.runner import run_worker
from edgekd.bench.stats import percentile
from edgekd.data.loader import batches
from edgekd.export.bundle import write_bundle
from edgekd.export.parity import Outputs
from edgekd.job import Job
from edgekd.metrics import compare_outputs, drop_points
from edgekd.progress import Progress
from edgekd.runtime import load
from edgekd.runtime.trust import OWN_WORK

PROCESSES = 5
_LEAST_FOR_P99 = 100  # samples
_TIMEOUT_S = 3600.0

Array = NDArray[Any]


def measure_cascade(
    job: Job,
    files: Mapping[str, bytes],
    manifest: Mapping[str, Any],
    points: Sequence[str],
    outputs: Outputs,
    targets: Array | None,
    *,
    timed: bool,
    progress: Progress,
) -> dict[str, Any]:
    """Return for every operating point what it answers and, if ``timed``, how long it takes.

    ``files`` and ``manifest`` make a bundle, which is opened by the code that production uses.
    ``outputs`` are those of the same model without exits for all validation samples. Times are of
    single calls with a batch of one: every sample once on each, in random order, in fresh
    processes. Raises what loading and running raise.
    """
    inputs = _inputs(job)
    with tempfile.TemporaryDirectory() as folder:
        bundle = write_bundle(Path(folder) / "bundle", files, manifest, overwrite=False)
        found = {name: _answers(bundle, name, inputs, outputs, targets) for name in points}
        if timed:
            path = Path(folder) / "inputs.npz"
            np.savez(path, **inputs)  # type: ignore[arg-type]  # its stub names allow_pickle
            times, exits = _times(job, bundle, path, points, progress)
            for name in points:
                found[name]["latency"] = _summary(times[name], times[MODEL], exits[name])
    return found


def _inputs(job: Job) -> dict[str, Array]:
    """Return the model's inputs for all validation samples, by name."""
    spec, data = job.loaded.spec, job.data
    rows = [inputs for inputs, _ in batches(data, data.validation, spec, 64)]
    columns = [np.concatenate([t.numpy() for t in tensors]) for tensors in zip(*rows, strict=True)]
    return dict(zip([tensor.name for tensor in spec.inputs], columns, strict=True))


def _answers(
    bundle: Path, point: str, inputs: Mapping[str, Array], full: Outputs, targets: Array | None
) -> dict[str, Any]:
    with load(bundle, operating_point=point, trust=OWN_WORK) as cascade:
        answers, exits = cascade.run(*inputs.values())
        last = len(cascade.operating_points[point])
    found = compare_outputs((answers,), full[:1], targets)
    counts = np.bincount(exits, minlength=last + 1) / len(exits)
    return {
        "accuracy": found.value,
        "drop_points": drop_points(found, compare_outputs(full[:1], full[:1], targets)),
        "quality": found.to_dict(),
        "shares": counts.tolist(),
    }


def _times(
    job: Job, bundle: Path, inputs: Path, points: Sequence[str], progress: Progress
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return ``(processes, samples)`` milliseconds by name, and the exit of each sample."""
    answers = []
    with progress.task("Measuring the cascade", PROCESSES) as advance:
        for process in range(PROCESSES):
            work = {
                "bundle": str(bundle),
                "inputs": str(inputs),
                "points": list(points),
                "threads": job.profile.threads,
                "seed": job.recipe.seed,
                "process": process,
            }
            answers.append(run_worker("edgekd.bench.cascade_worker", work, _TIMEOUT_S))
            advance(1)
    names = [MODEL, *points]
    times = {n: np.array([a["samples_ns"][n] for a in answers]) / 1e6 for n in names}
    return times, {name: np.array(answers[0]["exits"][name]) for name in points}


def _summary(times: Array, model: Array, exits: Array) -> dict[str, Any]:
    """Return means, percentiles by exit, and the ratio to the model without exits.

    A mean is over the samples, of the median time at the exit that each takes: what else the
    machine does makes single calls ten times as long, which a plain mean is full of (``plain``). A
    ratio is cascade over model in one process, so 0.7 is faster; of five, the median and the range.
    """
    groups = [exits == index for index in range(int(exits.max()) + 1)]
    by_exit = [times[:, group].ravel().tolist() for group in groups]
    means = sum(
        group.mean() * np.median(times[:, group], axis=1) for group in groups if group.any()
    )
    medians = np.median(model, axis=1)
    ratios = means / medians
    return {
        "mean_ms": float(np.median(means)),
        "model_mean_ms": float(np.median(medians)),
        "plain_mean_ms": float(np.median(times.mean(1))),
        "model_plain_mean_ms": float(np.median(model.mean(1))),
        "ratio": float(np.median(ratios)),
        "ratio_low": float(ratios.min()),
        "ratio_high": float(ratios.max()),
        "p50_ms": float(np.median(times)),
        "p99_ms": percentile(times.ravel().tolist(), 99),
        "model_p99_ms": percentile(model.ravel().tolist(), 99),
        "by_exit": [_percentiles(samples) for samples in by_exit],
        "processes": PROCESSES,
        "protocol": "single calls of batch 1, every validation sample once a process, both models "
        "in one process in random order",
    }


def _percentiles(samples: list[float]) -> dict[str, Any]:
    enough = len(samples) >= _LEAST_FOR_P99
    return {
        "calls": len(samples),
        "p50_ms": percentile(samples, 50) if samples else None,
        "p99_ms": percentile(samples, 99) if enough else None,
    }
