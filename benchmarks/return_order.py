"""In which order should layers go back to float: by damage, or by damage per multiplication?

Quantizes ResNet-20 with few bits for the weights, and searches with both orders for the fewest
layers in float that hold a budget, in fake quantization on the validation samples. Prints the share
of the multiplications that each order leaves in float.

    python -m benchmarks.return_order CHECKPOINT --arch FILE.py:resnet20 --data DATA.npz \
        --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --bits 4 --seeds 2
"""

from __future__ import annotations

import argparse
import math

import torch
from torch import fx

from benchmarks.jobs import add_model_options, open_job
from edgekd.data.loader import batches
from edgekd.graph.canonical import canonicalize
from edgekd.graph.program import clone, output_tensors, refresh, to_module
from edgekd.job import Job
from edgekd.metrics import Budget, Quality, compare, drop_points
from edgekd.quantize import onnxruntime
from edgekd.quantize.calibrate import calibrate
from edgekd.quantize.fake import WeightQuantizer
from edgekd.quantize.partial import QuantizedProgram
from edgekd.quantize.placement import Placement
from edgekd.quantize.prepare import prepare as insert_quantizers
from edgekd.quantize.sensitivity import LayerDamage, measure_sensitivity
from edgekd.stages.budget import cheapest_first, fewest

BUDGETS = tuple(Budget(max_drop=x) for x in (0.2, 0.5, 1.0)) + tuple(
    Budget(max_nfr=x) for x in (0.0, 0.6, 1.0, 2.0)
)


def main() -> None:
    """Read the options and run every seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_model_options(parser)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    for seed in range(options.seeds):
        run(options, seed)


@torch.no_grad()
def run(options: argparse.Namespace, seed: int) -> None:
    """Print a line for each order and each budget that the quantized model misses."""
    job = open_job(options, seed)
    program = quantize(job, options.bits)
    samples = list(batches(job.data, job.data.validation, job.loaded.spec, 64))
    inputs = [x for x, _ in samples]
    targets = torch.cat([labels for _, labels in samples if labels is not None])
    expected = predict(program.original, inputs)
    original = compare(expected.numpy(), expected.numpy(), targets.numpy())

    rows = measure_sensitivity(program, inputs, targets, lambda _: None, classification=True)
    for name, order in {"damage": rows, "damage / MAC": cheapest_first(rows)}.items():
        known: dict[int, Quality] = {}

        def quality(count: int, order: list[LayerDamage] = order, known=known) -> Quality:  # type: ignore[no-untyped-def]
            if count not in known:
                module, _ = program.without({row.layer: "returned" for row in order[:count]})
                output = predict(module, inputs)
                known[count] = compare(output.numpy(), expected.numpy(), targets.numpy())
            return known[count]

        for budget in BUDGETS:

            def holds(count: int, quality=quality, budget: Budget = budget) -> bool:  # type: ignore[no-untyped-def]
                found = quality(count)
                return budget.holds(drop_points(found, original), found.negative_flips)

            if holds(0):
                continue
            count = fewest(len(order), holds) or len(order)
            share = sum(r.macs for r in order[:count]) / sum(r.macs for r in order)
            print(f"W{options.bits} seed {seed} {budget}: {name}: {count} layers, {share:.1%}")


def quantize(job: Job, bits: int) -> QuantizedProgram:
    """Calibrate with minmax; weights get ``bits`` bits, activations 8."""
    model = to_module(job.loaded.program)
    canonicalize(model)
    model = refresh(model, job.loaded.example)
    placement = onnxruntime.place(model)
    samples = [x for x, _ in batches(job.data, job.data.calibration, job.loaded.spec, 64)]
    names = [tensor.node for tensor in placement.tensors]
    ranges = calibrate(model, names, lambda: samples, onnxruntime.SCHEME, "minmax")
    largest = 2 ** (bits - 1) - 1

    def insert(module: fx.GraphModule, chosen: Placement) -> None:
        for quantizer in insert_quantizers(module, chosen, onnxruntime.SCHEME, ranges):
            if isinstance(quantizer, WeightQuantizer) and quantizer.learnable:
                quantizer.log_scale += math.log(quantizer.qmax / largest)
                quantizer.qmin, quantizer.qmax = -largest, largest

    trained = clone(model)
    insert(trained, placement)
    return QuantizedProgram(model, trained, onnxruntime.place, insert)


def predict(module: fx.GraphModule, inputs: list[tuple[torch.Tensor, ...]]) -> torch.Tensor:
    """Return the first output for all batches."""
    return torch.cat([output_tensors(module(*batch))[0] for batch in inputs])


if __name__ == "__main__":
    main()
