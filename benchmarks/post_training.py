"""What each option of post-training quantization is worth on a model, without distillation.

    python -m benchmarks.post_training MODEL --arch FILE.py:factory --data DATA.npz \\
        [--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --samples 300 --steps 100 --seeds 3]

Every row is the quantize stage with one setting changed, then some together. Logits are compared
with the original's on the validation samples: mean squared error, KL divergence of the class
probabilities, agreement of the top class; then top-1 accuracy and the stage's time. Means over the
seeds, which choose the samples and the order of learning, with the range of the error.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from benchmarks.jobs import add_model_options, open_job, state_of
from edgekd.data.loader import batches
from edgekd.graph.program import output_tensors
from edgekd.job import Job
from edgekd.progress import Silent
from edgekd.recipe import Calibration, QuantizeStage
from edgekd.stages import quantize
from edgekd.state import CompressionState

ALL: dict[str, Any] = {"equalize": True, "rounding": "adaround", "bias_correction": True}
VARIANTS: dict[str, dict[str, Any]] = {
    "minmax": {"method": "minmax"},
    "percentile": {"method": "percentile"},
    "entropy": {"method": "entropy"},
    "mse (default)": {},
    "mse, equalize": {"equalize": True},
    "mse, bias_correction": {"bias_correction": True},
    "mse, adaround": {"rounding": "adaround"},
    "mse, adaround, bias_correction": {"rounding": "adaround", "bias_correction": True},
    "mse, all three": ALL,
    "entropy, all three": {"method": "entropy", **ALL},
    "mse, w4a8": {"bits": "w4a8"},
    "mse, w4a8, adaround, bias_correction": {
        "bits": "w4a8",
        "rounding": "adaround",
        "bias_correction": True,
    },
}


@dataclass(frozen=True)
class Result:
    """One run; ``error`` is the mean squared error of the logits."""

    error: float
    divergence: float
    agreement: float
    accuracy: float
    seconds: float


def main() -> None:
    """Run every variant and print one table."""
    options = _options()
    jobs = [open_job(options, seed, target=options.target) for seed in range(options.seeds)]
    count = len(jobs[0].data.validation)
    print(f"{count} validation samples, {options.samples} for calibration, {len(jobs)} seeds\n")
    print(f"{'':32}{'logit MSE':>24}{'KL':>10}{'agree':>8}{'top-1':>8}{'seconds':>9}")
    for name, changed in VARIANTS.items():
        stage = _stage(changed, options)
        _print_row(name, [_measure(job, stage) for job in jobs])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_model_options(parser)
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    return parser.parse_args()


def _stage(changed: dict[str, Any], options: argparse.Namespace) -> QuantizeStage:
    changed = dict(changed)
    calibration = Calibration(samples=options.samples, method=changed.pop("method", "mse"))
    return QuantizeStage(
        stage="quantize",
        calibration=calibration,
        distill=None,
        rounding_steps=options.steps,
        **changed,
    )


def _measure(job: Job, stage: QuantizeStage) -> Result:
    state = state_of(job)
    model = state.model
    start = time.perf_counter()
    compressed = quantize.run(state, stage, Silent()).model
    seconds = time.perf_counter() - start
    (expected, labels), (found, _) = _logits(state, model), _logits(state, compressed)
    divergence = torch.nn.functional.kl_div(
        found.log_softmax(1), expected.log_softmax(1), log_target=True, reduction="batchmean"
    )
    return Result(
        error=float((found - expected).square().mean()),
        divergence=float(divergence),
        agreement=float((found.argmax(1) == expected.argmax(1)).double().mean()),
        accuracy=float((found.argmax(1) == labels).double().mean()),
        seconds=seconds,
    )


@torch.no_grad()
def _logits(state: CompressionState, model: fx.GraphModule) -> tuple[Tensor, Tensor]:
    found, labels = [], []
    for inputs, targets in batches(state.data, state.data.validation, state.spec, 250):
        assert targets is not None
        found.append(output_tensors(model(*inputs))[0])
        labels.append(targets)
    return torch.cat(found), torch.cat(labels)


def _print_row(name: str, results: list[Result]) -> None:
    errors = [result.error for result in results]
    error = f"{statistics.mean(errors):.5f} ({min(errors):.4f}..{max(errors):.4f})"
    divergence, agreement, accuracy, seconds = (
        statistics.mean(getattr(result, field) for result in results)
        for field in ("divergence", "agreement", "accuracy", "seconds")
    )
    print(
        f"{name:32}{error:>24}{divergence:10.5f}{agreement:8.2%}{accuracy:8.2%}{seconds:9.1f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
