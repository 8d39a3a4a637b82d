"""How much each layer's quantization costs by itself, everything else in float."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, fx

from edgekd.algorithms.kd_loss import kl_loss, relative_mse_loss
from edgekd.graph.program import output_tensors
from edgekd.graph.tensors import constant, layer_name
from edgekd.metrics import compare_outputs, drop_points
from edgekd.quantize.operations import is_weighted
from edgekd.quantize.partial import QuantizedProgram

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class LayerDamage:
    """What quantizing one layer alone does to the outputs.

    ``damage``: mean KL divergence of the class probabilities in nats, or the squared error of the
    outputs over their mean square where there are no classes. ``drop_points``: percentage points
    of the headline metric lost (negative: won). ``agreement``: share of samples with the same
    top-1 class, None without classes. ``macs``: multiply-accumulates for one sample.
    """

    layer: str
    damage: float
    drop_points: float
    agreement: float | None
    macs: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for the manifest."""
        return asdict(self)


@torch.no_grad()
def measure_sensitivity(
    program: QuantizedProgram,
    inputs: Sequence[Inputs],
    targets: Tensor | None,
    advance: Callable[[int], None],
    *,
    classification: bool,
) -> list[LayerDamage]:
    """Return a row for every quantized layer, the largest damage first.

    ``inputs`` are batches, ``targets`` those of all their samples. The reference is the float
    program with the same (trained) weights, so that a row holds the damage of quantization and not
    the change that training made. One pass over the samples for each layer, ``advance`` is called
    after it. (Dong et al., "HAWQ", ICCV 2019, arXiv 1905.03696, rank layers by curvature for the
    same purpose; here the damage is measured.)
    """
    float_program = program.alone(None)
    expected = _predict(float_program, inputs)
    macs = _count_macs(float_program, inputs[0])
    labels = None if targets is None else targets.numpy()
    reference = [output.numpy() for output in expected]
    quality = compare_outputs(reference, reference, labels)
    rows = []
    for layer in program.layers():
        found = _predict(program.alone(layer), inputs)
        damaged = compare_outputs([output.numpy() for output in found], reference, labels)
        rows.append(
            LayerDamage(
                layer,
                _damage(found, expected, classification=classification),
                drop_points(damaged, quality),
                damaged.agreement,
                macs[layer],
            )
        )
        advance(1)
    return sorted(rows, key=lambda row: -row.damage)


def _predict(module: fx.GraphModule, inputs: Sequence[Inputs]) -> tuple[Tensor, ...]:
    batches = [output_tensors(module(*batch)) for batch in inputs]
    return tuple(torch.cat(parts) for parts in zip(*batches, strict=True))


def _damage(found: Sequence[Tensor], expected: Sequence[Tensor], *, classification: bool) -> float:
    if classification:
        return max(0.0, float(kl_loss(found[0].double(), expected[0].double(), 1.0)))
    pairs = zip(found, expected, strict=True)
    return float(torch.stack([relative_mse_loss(a, b) for a, b in pairs]).sum())


def _count_macs(module: fx.GraphModule, inputs: Inputs) -> dict[str, int]:
    counter = _MacCounter(module)
    counter.run(*inputs)
    return counter.found


class _MacCounter(fx.Interpreter):
    """Counts by layer name: each output value takes as many as one filter has weights."""

    def __init__(self, module: fx.GraphModule):
        super().__init__(module)
        self.found: dict[str, int] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(self.module, fx.GraphModule) and is_weighted(self.module, n):
            weight, name = constant(self.module, n.args[1]), layer_name(n)
            assert weight is not None
            macs = value[0].numel() * weight[0].numel()
            self.found[name] = self.found.get(name, 0) + macs
        return value
