"""What the options of distillation cost in a step, and what they give on a model.

    python -m benchmarks.quantize_training MODEL --arch FILE.py:factory --data DATA.npz \\
        [--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --rounds 30 --seeds 1]

The first table is the time of a training step (teacher, student, loss, backward, optimiser) on one
batch; the variants take turns in random order and the ratio is the median of pairs. The second is
the quantize stage with one setting changed, with its default number of steps: the held-out loss in
one unit for all, which is the KL divergence of the class probabilities at temperature 1 on the
calibration samples, then the same with agreement and top-1 accuracy on the validation samples.
``--rounds 0`` or ``--seeds 0`` leaves a table out.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.optim.swa_utils import AveragedModel

from benchmarks.jobs import add_model_options, open_job, state_of, time_in_turns
from edgekd.algorithms.kd_loss import kl_loss
from edgekd.algorithms.moving_average import moving_average
from edgekd.cache import StepCache
from edgekd.data.loader import batches
from edgekd.data.samples import Samples
from edgekd.graph.canonical import canonicalize
from edgekd.graph.program import clone, output_tensors, refresh
from edgekd.model.trace import quiet
from edgekd.progress import Silent
from edgekd.quantize.calibrate import calibrate
from edgekd.quantize.onnxruntime import SCHEME, place
from edgekd.quantize.prepare import prepare as insert_quantizers
from edgekd.quantize.taps import find_taps
from edgekd.recipe import Calibration, QuantizeStage
from edgekd.stages import quantize
from edgekd.stages.distillation_loss import distillation_loss
from edgekd.stages.teacher_cache import teacher_outputs
from edgekd.state import CompressionState
from edgekd.training import Schedule
from edgekd.training_settings import Distill

VARIANTS: dict[str, dict[str, Any]] = {
    "kl (default)": {},
    "standardized-kl, temperature 2": {"loss": "standardized-kl", "temperature": 2.0},
    "top-k-kl, 5 classes": {"loss": "top-k-kl"},
    "mse": {"loss": "mse"},
    "kl, feature_weight 1": {"feature_weight": 1.0},
    "kl, ema 0.99": {"ema": 0.99},
}
CACHED = "kl, teacher's outputs from disk"


def main() -> None:
    """Print both tables."""
    options = _options()
    if options.rounds:
        _print_costs(state_of(open_job(options, 0)), options.rounds)
    if options.seeds:
        _print_quality(
            [state_of(open_job(options, seed)) for seed in range(options.seeds)], options
        )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_model_options(parser)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=1)
    return parser.parse_args()


def _print_costs(state: CompressionState, rounds: int) -> None:
    original, student = _programs(state)
    with tempfile.TemporaryDirectory() as folder:
        steps = {
            name: _step(state, original, clone(student), Distill(**changed))
            for name, changed in VARIANTS.items()
        }
        steps[CACHED] = _cached_step(
            replace(state, cache=StepCache(Path(folder))), original, clone(student)
        )
        times = time_in_turns(steps, rounds)
    first = next(iter(times.values()))
    batch = Distill().batch_size
    print(f"batch {batch}, {torch.get_num_threads()} threads, {rounds} rounds\n")
    print(f"{'':36}{'ms':>8}{'vs kl':>8}")
    for name, values in times.items():
        ratio = float(np.median(np.asarray(values) / np.asarray(first)))
        print(f"{name:36}{1e3 * statistics.median(values):8.1f}{ratio:7.2f}x")


def _programs(state: CompressionState) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Return the float program and the one with quantizers, ranges from one batch."""
    original = clone(state.model)
    canonicalize(original)
    original = refresh(original, state.example)
    student, placement = clone(original), place(original)
    inputs, _ = next(batches(state.data, state.data.calibration, state.spec, 64))
    names = [tensor.node for tensor in placement.tensors]
    ranges = calibrate(original, names, lambda: [inputs], SCHEME, "minmax")
    insert_quantizers(student, placement, SCHEME, ranges)
    return original, student


def _step(
    state: CompressionState, original: fx.GraphModule, student: fx.GraphModule, options: Distill
) -> Callable[[], None]:
    inputs, _ = next(batches(state.data, state.data.train, state.spec, options.batch_size))
    return _training_step(original, student, options, lambda: inputs)


def _cached_step(
    state: CompressionState, original: fx.GraphModule, student: fx.GraphModule
) -> Callable[[], None]:
    """Return a step that reads the teacher's outputs for other samples each time."""
    options = Distill(augment="none")
    schedule = Schedule(2, 1, options.learning_rate)
    device = torch.device("cpu")
    known = teacher_outputs(
        state,
        original,
        options,
        schedule,
        Silent(),
        device=device,
        title="benchmark",
        features=False,
    )
    assert known is not None
    inputs, _ = next(batches(state.data, state.data.train, state.spec, options.batch_size))
    order = np.random.default_rng(0)

    def read() -> tuple[Tensor, ...]:
        return *inputs, *known.rows(order.permutation(len(state.data.train))[: len(inputs[0])])

    return _training_step(original, student, options, read)


def _training_step(
    original: fx.GraphModule,
    student: fx.GraphModule,
    options: Distill,
    read: Callable[[], tuple[Tensor, ...]],
) -> Callable[[], None]:
    taps = find_taps(student, original)
    loss = distillation_loss(student, original, options, classification=True, taps=taps)
    optimizer = torch.optim.AdamW([p for p in student.parameters() if p.requires_grad], lr=1e-6)
    average = None
    if options.ema is not None:
        with quiet():
            average = AveragedModel(student, multi_avg_fn=moving_average(options.ema))

    def step() -> None:
        value = loss(read(), None)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        if average is not None:
            average.update_parameters(student)

    return step


def _print_quality(states: list[CompressionState], options: argparse.Namespace) -> None:
    counts = [len(part) for part in (states[0].data.calibration, states[0].data.validation)]
    print(f"\n{counts[0]} held-out and {counts[1]} validation samples, {len(states)} seed(s)\n")
    print(f"{'':36}{'held-out KL':>12}{'KL':>9}{'agree':>9}{'top-1':>9}{'kept':>6}{'seconds':>9}")
    variants = {"no training": None, **VARIANTS}
    for name, changed in variants.items():
        stage = QuantizeStage(
            stage="quantize",
            calibration=Calibration(samples=options.samples),
            distill=None if changed is None else Distill(**changed),
        )
        rows = [_measure(state, stage) for state in states]
        held, divergence, agreement, accuracy, kept, seconds = (
            statistics.mean(column) for column in zip(*rows, strict=True)
        )
        print(
            f"{name:36}{held:12.6f}{divergence:9.6f}{agreement:9.2%}{accuracy:9.2%}{kept:6.1f}"
            f"{seconds:9.1f}",
            flush=True,
        )


def _measure(state: CompressionState, stage: QuantizeStage) -> tuple[float, ...]:
    start = time.perf_counter()
    after = quantize.run(state, stage, Silent())
    seconds = time.perf_counter() - start
    held, *_ = _compare(state, after.model, state.data.calibration)
    found = _compare(state, after.model, state.data.validation)
    return held, *found, float(after.details.get("distillation_kept", False)), seconds


@torch.no_grad()
def _compare(
    state: CompressionState, model: fx.GraphModule, samples: Samples
) -> tuple[float, float, float]:
    """Return KL divergence from the original, agreement with it, and top-1 accuracy."""
    found, expected, labels = [], [], []
    for inputs, targets in batches(state.data, samples, state.spec, 250):
        assert targets is not None
        found.append(output_tensors(model(*inputs))[0])
        expected.append(output_tensors(state.teacher(*inputs))[0])
        labels.append(targets)
    a, b, truth = torch.cat(found), torch.cat(expected), torch.cat(labels)
    return (
        kl_loss(a, b, 1.0).item(),
        (a.argmax(1) == b.argmax(1)).double().mean().item(),
        (a.argmax(1) == truth).double().mean().item(),
    )


if __name__ == "__main__":
    main()
