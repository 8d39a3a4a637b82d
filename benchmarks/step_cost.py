"""What fake quantization adds to a distillation step.

    python -m benchmarks.step_cost MODEL --arch FILE.py:factory --data DATA.npz \\
        [--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --batch 128 --rounds 30]

A step is: teacher forward, student forward, loss, backward, optimiser. All variants see the same
batch and take turns in random order; the table prints medians of the ratio to the first one.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, fx, nn

from benchmarks.jobs import add_model_options, open_job, time_in_turns
from edgekd.data.loader import batches
from edgekd.graph.canonical import canonicalize
from edgekd.graph.program import clone, refresh, to_module
from edgekd.job import Job
from edgekd.model.load import open_model
from edgekd.quantize.calibrate import calibrate
from edgekd.quantize.fake import Quantizer, WeightQuantizer
from edgekd.quantize.onnxruntime import SCHEME, place
from edgekd.quantize.prepare import prepare as insert_quantizers
from edgekd.stages.distillation_loss import distillation_loss
from edgekd.training_settings import Distill


def main() -> None:
    """Time every variant of the step and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_model_options(parser)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    job = open_job(options)
    inputs, _ = next(iter(batches(job.data, job.data.train, job.loaded.spec, options.batch)))
    steps = {name: _step(*pair, inputs) for name, pair in _variants(job, inputs).items()}
    times = time_in_turns(steps, options.rounds)
    first = next(iter(times))
    print(f"batch {len(inputs[0])}, {torch.get_num_threads()} threads, {options.rounds} rounds\n")
    print(f"{'student':58} {'ms':>7} {'vs first':>9} {'vs folded':>10}")
    for name, values in times.items():
        ratios = [_ratio(values, times[other]) for other in (first, "BatchNorm folded, float")]
        print(
            f"{name:58} {1e3 * statistics.median(values):7.1f} {ratios[0]:8.2f}x {ratios[1]:9.2f}x"
        )


def _variants(job: Job, inputs: tuple[Tensor, ...]) -> dict[str, tuple[nn.Module, fx.GraphModule]]:
    """Return (student, teacher) by name; the teacher is the same folded network everywhere."""
    teacher = _folded(job)
    fixed, learned = _quantized(teacher, inputs), _quantized(teacher, inputs)
    for quantizer in _quantizers(learned):
        quantizer.log_scale.requires_grad_(quantizer.learnable)
    for module in (stock := _quantized(teacher, inputs)).modules():
        if isinstance(module, Quantizer):
            _use_torch_kernels(module)
    students: dict[str, nn.Module] = {
        "as trained: BatchNorm, no quantization": _as_trained(job),
        "BatchNorm folded, float": clone(teacher),
        "edgekd: folded, fake quantization, fixed steps": fixed,
        "edgekd: folded, fake quantization, learned steps": learned,
        "folded, torch.fake_quantize_*_affine, fixed steps": stock,
    }
    return {name: (student, teacher) for name, student in students.items()}


def _as_trained(job: Job) -> nn.Module:
    """Return the user's own module in training mode where there is one, else its program."""
    module = open_model(job.request.model, arch=job.request.arch).module
    return to_module(job.loaded.program) if module is None else module.train()


def _folded(job: Job) -> fx.GraphModule:
    module = to_module(job.loaded.program)
    canonicalize(module)
    return refresh(module, job.loaded.example)


def _quantized(folded: fx.GraphModule, inputs: tuple[Tensor, ...]) -> fx.GraphModule:
    module = clone(folded)
    placement = place(module)
    names = [tensor.node for tensor in placement.tensors]
    ranges = calibrate(module, names, lambda: [inputs], SCHEME, "minmax")
    insert_quantizers(module, placement, SCHEME, ranges)
    return module


def _quantizers(module: nn.Module) -> list[Quantizer]:
    return [m for m in module.modules() if isinstance(m, Quantizer)]


def _use_torch_kernels(quantizer: Quantizer) -> None:
    """Swap the arithmetic of one quantizer for torch's own operators."""
    scale = quantizer.scale().detach().reshape(-1)
    zero = torch.full((len(scale),), quantizer.zero_point, dtype=torch.int32)
    bounds = (quantizer.qmin, quantizer.qmax)
    if isinstance(quantizer, WeightQuantizer):
        quantizer.forward = lambda x: torch.fake_quantize_per_channel_affine(  # type: ignore
            x, scale, zero, 0, *bounds
        )
    else:
        quantizer.forward = lambda x: torch.fake_quantize_per_tensor_affine(  # type: ignore
            x, scale[0], zero[0], *bounds
        )


def _step(
    student: nn.Module, teacher: fx.GraphModule, inputs: tuple[Tensor, ...]
) -> Callable[[], None]:
    loss = distillation_loss(student, teacher, Distill(), classification=True)  # type: ignore
    optimizer = torch.optim.AdamW([p for p in student.parameters() if p.requires_grad], lr=1e-6)

    def step() -> None:
        value = loss(inputs, None)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()

    return step


def _ratio(values: list[float], base: list[float]) -> float:
    return float(np.median(np.asarray(values) / np.asarray(base)))


if __name__ == "__main__":
    main()
