"""How big both networks are."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, fx

from edgekd.graph.float_form import float_form
from edgekd.prune.layers import read_layers, record_shapes
from edgekd.prune.sizes import Sizes, read_products


@dataclass(frozen=True)
class Capacity:
    """Trainable numbers, and the multiply-accumulates of one sample.

    ``macs`` counts convolutions, linear layers and attention's products, as pruning counts them.
    """

    parameters: int
    macs: int


@dataclass(frozen=True)
class CapacityRatio:
    """Both capacities; the ratios are the teacher's over the student's."""

    teacher: Capacity
    student: Capacity

    @property
    def parameters(self) -> float:
        """How many times the student's parameters the teacher has."""
        return self.teacher.parameters / max(self.student.parameters, 1)

    @property
    def macs(self) -> float:
        """How many times the student's multiply-accumulates the teacher does."""
        return self.teacher.macs / max(self.student.macs, 1)


def capacity(module: fx.GraphModule, example: tuple[Tensor, ...]) -> Capacity:
    """Count ``module``, running one sample of ``example`` through it."""
    parameters = sum(parameter.numel() for parameter in module.parameters())
    plain = float_form(module, example)  # attention written out, so that its products count
    shapes = record_shapes(plain, example)
    layers = read_layers(plain, (), shapes)
    products = read_products(plain, (), Sizes(plain, layers, shapes), shapes)
    return Capacity(parameters, sum(layer.shape.macs for layer in (*layers, *products)))
