"""Sparse fine-tuning: what logit distillation and SquareHead give, and what they cost.

    python -m benchmarks.sparsify MODEL --arch FILE.py:factory --data DATA.npz \\
        [--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --seeds 3 --steps 1200] \\
        [--pattern 2:4 --learning-rate 0.01] \\
        [--results results.json]

The first table is the sparsify stage with one part of the loss after the other, for 75 %
unstructured zeros and for 2:4: validation accuracy, the cross entropy of the labels and the KL
divergence from the original on held-out samples (mean and range over the seeds). Behind 2:4 stands
INT8 on top of it, beside INT8 of the dense model. The second table is the time of single training
steps that take turns in random order (the ratio is the median of pairs) and the peak memory of a
process while it does nothing but such steps, model and data included (Linux).

Every finished cell is stored in the file of ``--results``; the same command goes on from there.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from benchmarks.cells import Cell, Cells
from benchmarks.jobs import (
    add_model_options,
    open_job,
    peak_memory,
    print_peak_memory,
    state_of,
    time_in_turns,
)
from edgekd.algorithms.kd_loss import kl_loss
from edgekd.data.loader import batches
from edgekd.data.samples import Samples
from edgekd.graph.float_form import float_form
from edgekd.graph.program import clone, output_tensors
from edgekd.graph.taps import matching_taps
from edgekd.progress import Silent
from edgekd.recipe import QuantizeStage, SparsifyStage
from edgekd.sparse.gradual import GradualMasks
from edgekd.sparse.layers import choose_layers
from edgekd.sparse.masking import apply_masks, stored
from edgekd.sparse.patterns import NM, magnitude_masks
from edgekd.stages import quantize, sparsify
from edgekd.stages.distillation_loss import distillation_loss
from edgekd.state import CompressionState
from edgekd.training_settings import Recovery

PATTERNS: dict[str, dict[str, Any]] = {
    "75 % unstructured": {"pattern": "unstructured", "sparsity": 0.75},
    "2:4": {"pattern": "2:4"},
}
LOSSES: dict[str, dict[str, Any]] = {
    "task loss": {"hard_label_weight": 1.0, "feature_weight": 0.0},
    "+ logit KD": {"hard_label_weight": 0.5, "feature_weight": 0.0},
    "+ SquareHead": {"hard_label_weight": 0.5, "feature_weight": 1.0},
}
DENSE = "dense"
PLAIN = "+ logit KD"  # what a step's time is compared with
WHOLE = "+ SquareHead"  # what INT8 goes on top of


def main() -> None:
    """Print both tables, or run the steps whose memory is asked for."""
    options = _options()
    if options.memory_of is not None:
        print_peak_memory(_step(state_of(open_job(options, 0)), options, options.memory_of))
        return
    cells = Cells(options.results)
    _print_quality(options, cells)
    if options.rounds:
        _print_costs(options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_model_options(parser)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, help="by default the stage's own")
    parser.add_argument("--augment", default="crop-flip")
    parser.add_argument("--pattern", action="append", choices=PATTERNS, help="by default both")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--memory-of", choices=LOSSES, help=argparse.SUPPRESS)
    return parser.parse_args()


def _recovery(options: argparse.Namespace, loss: str) -> Recovery:
    return Recovery(
        **LOSSES[loss],
        epochs=10**6,  # max_steps decides
        max_steps=options.steps,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        augment=options.augment,
    )


def _print_quality(options: argparse.Namespace, cells: Cells) -> None:
    print(
        f"{options.model.name}: {options.steps} steps of {options.batch_size}, learning rate "
        f"{options.learning_rate or 'auto'}, {options.seeds} seed(s)\n"
    )
    header = ("top-1", "held-out CE", "held-out KL", "zeros")
    print(f"{'':34}" + "".join(f"{title:>26}" for title in header))
    _print_row(DENSE, _over_seeds(options, cells, DENSE, None, None))
    patterns = options.pattern or list(PATTERNS)
    if "2:4" in patterns:
        _print_row(f"{DENSE}, INT8", _over_seeds(options, cells, f"{DENSE}, INT8", None, None))
    for pattern in patterns:
        for loss in LOSSES:
            name = f"{pattern}, {loss}"
            _print_row(name, _over_seeds(options, cells, name, pattern, loss))
            if pattern == "2:4" and loss == WHOLE:
                name = f"{name}, INT8"
                _print_row(name, _over_seeds(options, cells, name, pattern, loss))


def _over_seeds(
    options: argparse.Namespace, cells: Cells, name: str, pattern: str | None, loss: str | None
) -> list[Cell]:
    settings = f"{options.model.name}, {options.steps} x {options.batch_size}"
    settings += f", {options.learning_rate or 'auto'}, {options.augment}"
    found = []
    for seed in range(options.seeds):
        label = f"{settings}, seed {seed}: "

        def make(seed: int = seed, label: str = label) -> dict[str, Cell]:
            made = _measure(options, seed, pattern, loss)
            return {label + key: cell for key, cell in made.items()}

        found.append(cells.get(label + name, make))
    return found


def _measure(
    options: argparse.Namespace, seed: int, pattern: str | None, loss: str | None
) -> dict[str, Cell]:
    """Return the cell of one training, and of INT8 on top of it where that is asked for."""
    state = state_of(open_job(options, seed))
    name, zeros = DENSE, 0.0
    start = time.perf_counter()
    after = state
    if pattern is not None and loss is not None:
        stage = SparsifyStage(
            stage="sparsify", **PATTERNS[pattern], distill=_recovery(options, loss)
        )
        after = sparsify.run(state, stage, Silent())
        name, facts = f"{pattern}, {loss}", after.details["sparsity"]
        zeros = facts["zeros"] / facts["weights"]
    seconds = time.perf_counter() - start
    cells = {name: {**_quality(state, after.model), "zeros": zeros, "seconds": seconds}}
    on_top = pattern is None and "2:4" in (options.pattern or PATTERNS)
    if on_top or (pattern == "2:4" and loss == WHOLE):
        given = replace(state.with_model(after.model), keep_zeros=pattern is not None)
        integers = quantize.run(given, QuantizeStage(stage="quantize"), Silent())
        held = integers.details.get("held_zeros", {"planned": 0, "weights": 1})
        share = held["planned"] / held["weights"]
        cells[f"{name}, INT8"] = {**_quality(state, integers.model), "zeros": share}
    return cells


def _quality(state: CompressionState, model: fx.GraphModule) -> Cell:
    accuracy, _, _ = _compare(state, model, state.data.validation)
    _, entropy, divergence = _compare(state, model, state.data.calibration)
    return {"top-1": accuracy, "held-out CE": entropy, "held-out KL": divergence}


@torch.no_grad()
def _compare(
    state: CompressionState, model: fx.GraphModule, samples: Samples
) -> tuple[float, float, float]:
    """Return top-1 accuracy, the labels' cross entropy and the KL divergence from the original."""
    found, expected, labels = [], [], []
    for inputs, targets in batches(state.data, samples, state.spec, 250):
        assert targets is not None
        found.append(output_tensors(model(*inputs))[0])
        expected.append(output_tensors(state.teacher(*inputs))[0])
        labels.append(targets)
    a, b, truth = torch.cat(found), torch.cat(expected), torch.cat(labels)
    return (
        (a.argmax(1) == truth).double().mean().item(),
        torch.nn.functional.cross_entropy(a, truth).item(),
        kl_loss(a, b, 1.0).item(),
    )


def _print_row(name: str, cells: list[Cell]) -> None:
    columns = [[cell[key] for cell in cells] for key in ("top-1", "held-out CE", "held-out KL")]
    shown = [_spread([100 * value for value in columns[0]], "{:.2f}")]
    shown += [_spread(column, "{:.4f}") for column in columns[1:]]
    shown.append(f"{statistics.mean(cell['zeros'] for cell in cells):.2%}")
    print(f"{name:34}" + "".join(f"{text:>26}" for text in shown), flush=True)


def _spread(values: list[float], form: str) -> str:
    mean, low, high = (form.format(f(values)) for f in (statistics.mean, min, max))
    return f"{mean} ({low} to {high})"


def _print_costs(options: argparse.Namespace) -> None:
    state = state_of(open_job(options, 0))
    steps = {loss: _step(state, options, loss) for loss in LOSSES}
    times = time_in_turns(steps, options.rounds)
    batch, threads = options.batch_size, torch.get_num_threads()
    print(f"\nsteps of {batch} samples, 2:4, {threads} threads, {options.rounds} rounds\n")
    print(f"{'':34}{'ms':>10}{'vs logit KD':>13}{'peak memory':>14}")
    for loss, values in times.items():
        ratio = float(np.median(np.asarray(values) / np.asarray(times[PLAIN])))
        peak = peak_memory("sparsify", loss)
        print(
            f"{loss:34}{1e3 * statistics.median(values):10.1f}{ratio:12.2f}x"
            f"{peak / 2**20:10.0f} MiB",
            flush=True,
        )


def _step(
    state: CompressionState, options: argparse.Namespace, loss_name: str
) -> Callable[[], None]:
    """Return one step of the stage's training on a fixed batch, masks included."""
    recovery = _recovery(options, loss_name)
    original = float_form(state.model, state.example)
    student = clone(original)
    choice = choose_layers(student, NM(2, 4), keep_ends=True)
    masks = magnitude_masks(NM(2, 4), stored(student, choice.weights))
    apply_masks(student, masks)
    hold = GradualMasks(student, masks, NM(2, 4), 0, device=torch.device("cpu"))
    loss = distillation_loss(
        student,
        original,
        recovery,
        classification=True,
        taps=matching_taps(student, original),
        batch_statistics=True,
    )
    optimizer = torch.optim.AdamW([p for p in student.parameters() if p.requires_grad], lr=1e-6)
    batch: tuple[tuple[Tensor, ...], Tensor | None] = next(
        batches(state.data, state.data.train, state.spec, options.batch_size)
    )

    def step() -> None:
        value = loss(*batch)
        optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        hold(1)

    return step


if __name__ == "__main__":
    main()
