"""SparseGPT on a program: what each layer reads is collected, then every layer is solved alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, assert_never

import torch
from torch import Tensor, fx

from edgekd.algorithms.im2col import (
    convolution_columns,
    linear_columns,
    weight_from_matrices,
    weight_matrices,
)
from edgekd.algorithms.sparsegpt import sparsegpt_nm, sparsegpt_unstructured
from edgekd.errors import StageError
from edgekd.graph.tensors import is_op
from edgekd.sparse.layers import CONVOLUTIONS, WEIGHTED, groups_of, weight_of
from edgekd.sparse.masking import stored
from edgekd.sparse.patterns import NM, Block, Masks, Pattern, Unstructured, magnitude_masks

Inputs = tuple[Tensor, ...]


@torch.no_grad()
def prune_second_order(
    module: fx.GraphModule,
    names: Iterable[str],
    pattern: Pattern,
    batches: Iterable[Inputs],
    advance: Callable[[int], None] = lambda _: None,
) -> Masks:
    """Prune the weights called ``names`` in place and correct what stays; return the masks.

    All layers are solved for the inputs that they have in the dense program, so that one pass over
    ``batches`` is enough. (The paper prunes layer after layer and runs the pruned ones again.)
    Unstructured: how many weights each layer loses is what magnitudes say across all layers.
    ``advance`` is called for every layer.
    """
    weights = stored(module, names)
    hessians = collect_hessians(module, set(weights), batches)
    plan = magnitude_masks(pattern, weights) if isinstance(pattern, Unstructured) else {}
    masks: Masks = {}
    for name, weight in weights.items():
        zeros = int((~plan[name]).sum()) if plan else 0
        matrices = weight_matrices(weight, len(hessians[name]))
        found = []
        for group, (rows, hessian) in enumerate(zip(matrices, hessians[name], strict=True)):
            share = _share(zeros, group, len(matrices))
            found.append(_solve(rows, hessian, pattern, share))
        solved, kept = (torch.stack(parts) for parts in zip(*found, strict=True))
        weight.copy_(weight_from_matrices(solved, weight.shape))
        masks[name] = weight_from_matrices(kept, weight.shape)
        advance(1)
    return masks


def collect_hessians(
    module: fx.GraphModule, names: set[str], batches: Iterable[Inputs]
) -> Mapping[str, Tensor]:
    """Return E[x x^T] of each layer's inputs, ``(groups, C, C)`` by the name of its weight.

    Columns are those of ``weight_matrices``. Layers that share a weight are taken together.
    """
    reader = _Reader(module, names)
    for inputs in batches:
        reader.run(*inputs)
    return {name: total / reader.rows[name] for name, total in reader.totals.items()}


def _share(total: int, part: int, parts: int) -> int:
    return round(total * (part + 1) / parts) - round(total * part / parts)


def _solve(rows: Tensor, hessian: Tensor, pattern: Pattern, zeros: int) -> tuple[Tensor, Tensor]:
    match pattern:
        case NM(kept=kept, group=size):
            return sparsegpt_nm(rows, hessian, kept, size)
        case Unstructured():
            return sparsegpt_unstructured(rows, hessian, zeros)
        case Block():
            raise StageError(
                "sparsify: method sparsegpt has no form for blocks: use method magnitude"
            )
        case _:
            assert_never(pattern)


class _Reader(fx.Interpreter):
    """Sums up x x^T over everything that certain layers read."""

    def __init__(self, module: fx.GraphModule, names: set[str]):
        super().__init__(module)
        self.names = names
        self.totals: dict[str, Tensor] = {}
        self.rows: dict[str, int] = {}

    def run_node(self, n: fx.Node) -> Any:
        read = n.args[1] if is_op(n, *WEIGHTED) else None
        if isinstance(read, fx.Node) and str(read.target) in self.names:
            source = n.args[0]
            assert isinstance(source, fx.Node) and isinstance(self.module, fx.GraphModule)
            self._add(str(read.target), _columns(self.module, n, self.env[source]))
        return super().run_node(n)

    def _add(self, name: str, columns: Tensor) -> None:
        products = columns.transpose(1, 2) @ columns
        self.totals[name] = self.totals.get(name, 0) + products
        self.rows[name] = self.rows.get(name, 0) + columns.shape[1]


def _columns(module: fx.GraphModule, layer: fx.Node, x: Tensor) -> Tensor:
    if not is_op(layer, *CONVOLUTIONS):
        return linear_columns(x)
    kernel = weight_of(module, layer).shape[2:]
    given: list[Any] = list(layer.args[3:6])
    given += [1, 0, 1][len(given) :]
    stride, padding, dilation = (_on_axes(value, len(kernel)) for value in given)
    return convolution_columns(
        x, kernel, stride=stride, padding=padding, dilation=dilation, groups=groups_of(layer)
    )


def _on_axes(value: Any, axes: int) -> list[int]:
    """Return a setting of a convolution for each axis; one number may stand for all."""
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return values * (axes // len(values))
