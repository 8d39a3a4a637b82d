"""Pruning to a measured speed, beside INT8, a narrow network from scratch, and pruning by MACs.

    python -m benchmarks.prune MODEL --arch FILE.py:factory --data DATA.npz \\
        [--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --unlabeled DIR] \\
        [--speedup 2 --epochs 10 --cache DIR]

The rows are: the model in float and INT8; pruned to ``--speedup`` (ONNX Runtime, float), then INT8;
pruned to the same share of multiplications, without regard to latency; and a student of the same
measured latency whose layers all have the same share of the original's width, initialised at random
and trained by the same distillation on the same data. All of them are timed in one duet, batch 1:
fresh processes, single calls in random order, ratios are medians of paired calls. The second table
is the time of single training steps that take turns (medians of pairs) and the peak memory of a
process that runs only such steps.

Finished stages are in the cache, so the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from benchmarks.jobs import (
    add_model_options,
    open_job,
    peak_memory,
    print_peak_memory,
    time_in_turns,
)
from edgekd.bench.protocol import Protocol
from edgekd.bench.runner import measure
from edgekd.cache import step_key
from edgekd.data.loader import batches
from edgekd.export.deployed import export_for
from edgekd.export.parity import onnx_predictor, predict_all
from edgekd.graph.float_form import float_form
from edgekd.graph.program import clone
from edgekd.graph.taps import matching_taps
from edgekd.job import Job
from edgekd.metrics import compare_outputs
from edgekd.pipeline import first_state, run_steps
from edgekd.progress import Progress, Silent
from edgekd.recipe import PruneStage, QuantizeStage, Stage
from edgekd.stages.distillation import distill
from edgekd.stages.distillation_loss import distillation_loss
from edgekd.state import CompressionState
from edgekd.steps import Step
from edgekd.training_settings import Distill, Recovery

FLOAT, INT8 = "original", "original, INT8"
PRUNED, PRUNED_INT8 = "pruned by latency", "pruned by latency, INT8"
BY_MACS, SCRATCH = "pruned by MACs", "narrow, from scratch"
STEPS = ("original, logits", "pruned, logits", "pruned, SquareHead")


@dataclass(frozen=True)
class Row:
    """One model: its ONNX file, and what is to be said of its shape."""

    onnx: bytes
    macs: int
    parameters: int


class _Notes(Silent):
    def note(self, text: str) -> None:
        """Print what a stage has to say."""
        print(f"  {text}", file=sys.stderr, flush=True)


def main() -> None:
    """Print both tables, or run the steps whose memory is asked for."""
    options = _options()
    more = {"unlabeled": options.unlabeled, "cache": options.cache}
    job = open_job(options, options.seed, **more)
    if options.memory_of is not None:
        print_peak_memory(_training_steps(job, options)[options.memory_of])
        return
    _print_models(job, _rows(job, options, _Notes()), options)
    if options.rounds_of_steps:
        _print_steps(job, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_model_options(parser)
    parser.add_argument("--unlabeled")
    parser.add_argument("--speedup", type=float, default=2.0)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--steps", type=int, default=2, help="pruning steps")
    parser.add_argument("--mixed-precision", action="store_true", help="train in bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--processes", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--rounds-of-steps", type=int, default=30)
    parser.add_argument("--memory-of", choices=STEPS, help=argparse.SUPPRESS)
    return parser.parse_args()


def _recovery(options: argparse.Namespace) -> Recovery:
    return Recovery(epochs=options.epochs, mixed_precision=options.mixed_precision)


def _run(job: Job, progress: Progress, *stages: Stage) -> list[Step]:
    return run_steps(
        replace(job, recipe=job.recipe.model_copy(update={"stages": stages})), progress
    )


def _prune(options: argparse.Namespace, **settings: Any) -> PruneStage:
    given = {"distill": _recovery(options), "steps": options.steps, "on_unprunable": "skip"}
    return PruneStage(stage="prune", **{**given, **settings})


def _rows(job: Job, options: argparse.Namespace, progress: Progress) -> dict[str, Row]:
    # One pass: with many unlabelled samples that is as much training as three of few.
    quantize = QuantizeStage(stage="quantize", distill=Distill(epochs=1))
    _, int8 = _run(job, progress, quantize)
    original, pruned, both = _run(job, progress, _prune(options, speedup=options.speedup), quantize)
    facts = pruned.record["details"]["prune"]
    (macs, left), (parameters, stored) = facts["macs"], facts["parameters"]
    rows = {
        FLOAT: Row(original.onnx, macs, parameters),
        INT8: Row(int8.onnx, macs, parameters),
        PRUNED: Row(pruned.onnx, left, stored),
        PRUNED_INT8: Row(both.onnx, left, stored),
    }
    _, by_macs = _run(job, progress, _prune(options, macs=left / macs))
    rows[BY_MACS] = _row(by_macs.onnx, by_macs)
    # Narrower than the profile's multiple too: that is what a width multiplier does.
    uniform = {"across": "uniform", "blocks": False, "multiple": 1, "steps": 1, "distill": None}
    _, narrow = _run(job, progress, _prune(options, speedup=options.speedup, **uniform))
    rows[SCRATCH] = _row(_from_scratch(job, options, original, narrow, progress), narrow)
    return rows


def _row(onnx: bytes, step: Step) -> Row:
    facts = step.record["details"]["prune"]
    return Row(onnx, facts["macs"][1], facts["parameters"][1])


def _from_scratch(
    job: Job, options: argparse.Namespace, original: Step, narrow: Step, progress: Progress
) -> bytes:
    """Return the ONNX file of ``narrow`` with new weights, distilled on the outputs."""
    state = first_state(job, original)
    # What a channel of a new network stands for is open, so that features have no counterpart.
    recovery = _recovery(options).model_copy(update={"feature_weight": 0.0})
    parts = {"from scratch": recovery.model_dump(), "of": str(narrow.folder.name)}
    key = step_key({**parts, "data": job.data.fingerprints, "seed": job.recipe.seed})
    if job.cache.folder(key) is None:
        student = clone(narrow.model)
        _initialise(student, job.recipe.seed)
        teacher = float_form(original.model, state.example)
        distill(
            replace(state, key=key),
            teacher,
            student,
            recovery,
            progress,
            title="from scratch",
            undo=False,
        )
        onnx = export_for(job.profile, student, state.example, state.spec).onnx
        job.cache.store(key, {"model.onnx": onnx}, {})
        job.cache.discard_partial(key)
    folder = job.cache.folder(key)
    assert folder is not None
    return (folder / "model.onnx").read_bytes()


@torch.no_grad()
def _initialise(module: fx.GraphModule, seed: int) -> None:
    """Give every parameter the start of He et al. (ICCV 2015), and batch norms theirs."""
    torch.manual_seed(seed)
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter, mode="fan_out", nonlinearity="relu")
        elif name.endswith("weight"):
            nn.init.ones_(parameter)
        else:
            nn.init.zeros_(parameter)


def _print_models(job: Job, rows: dict[str, Row], options: argparse.Namespace) -> None:
    protocol = Protocol(processes=options.processes, rounds=options.rounds)
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for number, (name, row) in enumerate(rows.items()):
            paths[name] = Path(folder) / f"{number}.onnx"
            paths[name].write_bytes(row.onnx)
        by_float = measure(paths, baseline=FLOAT, protocol=protocol).models
        by_int8 = measure(paths, baseline=INT8, protocol=protocol).models
    outputs, targets = {}, None
    for name, row in rows.items():
        predict = onnx_predictor(row.onnx, job.loaded.spec)
        outputs[name], targets = predict_all(
            predict, job.data, job.data.validation, job.loaded.spec, Silent()
        )
    extra = len(job.data.train)
    print(f"{options.model.name}: {extra} training samples, {options.epochs} epochs in the end;")
    print(f"batch 1, {protocol.threads} thread, {protocol.processes} x {protocol.rounds} calls\n")
    print(f"{'':26}{'top-1':>8}{'agree':>8}{'MACs':>8}{'params':>8}", end="")
    print(f"{'speed of FP32':>22}{'speed of INT8':>22}")
    first = rows[FLOAT]
    for name, row in rows.items():
        quality = compare_outputs(outputs[name], outputs[FLOAT], targets)
        agreement = quality.agreement if quality.agreement is not None else float("nan")
        print(
            f"{name:26}{quality.value:8.4f}{agreement:8.4f}{row.macs / first.macs:8.2f}"
            f"{row.parameters / first.parameters:8.2f}"
            f"{_ratio(by_float[name]):>22}{_ratio(by_int8[name]):>22}"
        )


def _ratio(latency: Any) -> str:
    if latency.ratio is None:
        return "1"
    return f"{latency.ratio:.2f} ({latency.ratio_low:.2f} to {latency.ratio_high:.2f})"


def _print_steps(job: Job, options: argparse.Namespace) -> None:
    times = time_in_turns(_training_steps(job, options), options.rounds_of_steps)
    plain = np.asarray(times[STEPS[0]])
    print(f"\ntraining steps of {_recovery(options).batch_size} samples, ", end="")
    print(f"{torch.get_num_threads()} threads, {options.rounds_of_steps} rounds\n")
    print(f"{'':26}{'ms':>8}{'against the first':>20}{'peak memory':>14}")
    for name, values in times.items():
        ratio = float(np.median(np.asarray(values) / plain))
        memory = f"{peak_memory('prune', name) / 2**20:.0f} MiB"
        print(f"{name:26}{1e3 * statistics.median(values):8.0f}{ratio:19.2f}x{memory:>14}")


def _training_steps(job: Job, options: argparse.Namespace) -> dict[str, Callable[[], None]]:
    """Return one training step each of the original and of the pruned model, from the cache."""
    original, pruned = _run(job, Silent(), _prune(options, speedup=options.speedup))
    state = first_state(job, original)
    teacher = float_form(original.model, state.example)
    return {
        STEPS[0]: _training_step(state, teacher, clone(teacher), options, 0.0),
        STEPS[1]: _training_step(state, teacher, clone(pruned.model), options, 0.0),
        STEPS[2]: _training_step(state, teacher, clone(pruned.model), options, 1.0),
    }


def _training_step(
    state: CompressionState,
    teacher: fx.GraphModule,
    student: fx.GraphModule,
    options: argparse.Namespace,
    feature_weight: float,
) -> Callable[[], None]:
    recovery = _recovery(options).model_copy(update={"feature_weight": feature_weight})
    # The same tensors in both: what is timed is their comparison, whatever their width.
    taps = [tap for tap in matching_taps(student, teacher) if _same(student, teacher, tap.student)]
    loss = distillation_loss(
        student,
        teacher,
        recovery,
        classification=state.classification,
        taps=taps,
        mixed_precision=recovery.mixed_precision,
        batch_statistics=True,
    )
    optimizer = torch.optim.SGD([p for p in student.parameters() if p.requires_grad], lr=1e-6)
    batch = next(batches(state.data, state.data.train, state.spec, recovery.batch_size))

    def step() -> None:
        value = loss(*batch)
        optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def _same(student: fx.GraphModule, teacher: fx.GraphModule, name: str) -> bool:
    shapes = [
        next(n.meta["val"].shape[1:] for n in module.graph.nodes if n.name == name)
        for module in (student, teacher)
    ]
    return bool(shapes[0] == shapes[1])


if __name__ == "__main__":
    main()
