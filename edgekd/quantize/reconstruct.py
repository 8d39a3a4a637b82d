"""Learning how to round the weights, block by block, so that each block's output stays.

The block-wise form of AdaRound: Li et al., "BRECQ", ICLR 2021, arXiv 2102.05426, algorithm 1. The
input of a block is what the quantized blocks before it give, its target what the float program
gives there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, fx

from edgekd.algorithms.rounding import annealed_beta, rounding_regularizer
from edgekd.graph.extract import extract
from edgekd.graph.tensors import constant, is_shared
from edgekd.quantize.blocks import Block, find_blocks, float_name
from edgekd.quantize.fake import WeightQuantizer
from edgekd.quantize.soft_rounding import SoftRounding

Inputs = tuple[Tensor, ...]
Batches = list[Inputs]

# The papers take 10,000 to 20,000 steps at 1e-3; a hundred steps at 1e-2 reach what a weight has
# to travel, which is a logit of at most 2.4 (benchmarks/post_training.py).
LEARNING_RATE = 1e-2
REGULARIZER = 1.0


def learn_rounding(
    original: fx.GraphModule,
    quantized: fx.GraphModule,
    batches: Iterable[Inputs],
    steps: int,
    order: np.random.Generator,
    advance: Callable[[int], None],
) -> list[tuple[float, float]]:
    """Move the weights of ``quantized`` onto codes that keep every block's output, in place.

    ``original`` and ``quantized`` are the same program before and after ``prepare``. A step takes
    one batch, in the order that ``order`` draws; ``advance`` is called for each. Returns the
    error of every block before and after, relative to the mean square of its output. A block that
    would not gain keeps its weights.
    """
    nodes = {node.name: node for node in original.graph.nodes}
    inputs = list(batches)
    expected, errors = inputs, []
    for block in find_blocks(quantized):
        edges = ([nodes[float_name(n)] for n in edge] for edge in (block.starts, block.ends))
        expected = _run(extract(original, *edges), expected)
        errors.append(_learn_block(quantized, block, (inputs, expected), steps, order, advance))
        inputs = _run(extract(quantized, block.starts, block.ends), inputs)
    return errors


@torch.no_grad()
def _run(module: fx.GraphModule, batches: Batches) -> Batches:
    return [module(*inputs) for inputs in batches]


def _learn_block(
    quantized: fx.GraphModule,
    block: Block,
    data: tuple[Batches, Batches],
    steps: int,
    order: np.random.Generator,
    advance: Callable[[int], None],
) -> tuple[float, float]:
    body = extract(quantized, block.starts, block.ends)
    before = _error(body, data)
    softened = _soften(quantized, body, block)
    if not softened or before == 0.0:
        advance(steps)
        return before, before
    _train(body, softened, data, before, steps, order, advance)
    undo = [soft.harden() for soft in softened]
    after = _error(extract(quantized, block.starts, block.ends), data)
    if after > before:
        for restore in undo:
            restore()
    return before, min(before, after)


def _soften(quantized: fx.GraphModule, body: fx.GraphModule, block: Block) -> list[SoftRounding]:
    """Replace the weight quantizers in ``body``; what several layers read keeps its rounding."""
    softened = []
    for call in block.weights:
        path, weight_node = str(call.target), call.args[0]
        quantizer, weight = quantized.get_submodule(path), constant(quantized, weight_node)
        assert isinstance(quantizer, WeightQuantizer) and isinstance(weight_node, fx.Node)
        if quantizer.learnable and weight is not None and not is_shared(quantized, weight_node):
            softened.append(SoftRounding(quantizer, weight))
            body.add_submodule(path, softened[-1])
    return softened


def _train(
    body: fx.GraphModule,
    softened: Sequence[SoftRounding],
    data: tuple[Batches, Batches],
    scale: float,
    steps: int,
    order: np.random.Generator,
    advance: Callable[[int], None],
) -> None:
    """Minimise the error over ``scale``, that of nearest rounding, plus the regulariser.

    In these units the weight of the regulariser means the same at every depth and bit width.
    """
    logits = [soft.logits for soft in softened]
    optimizer = torch.optim.Adam(logits, lr=LEARNING_RATE)
    for step in range(steps):
        index = int(order.integers(len(data[0])))
        loss = _batch_error(body(*data[0][index]), data[1][index]) / scale
        if (beta := annealed_beta(step, steps)) is not None:
            penalties = [rounding_regularizer(v, beta) for v in logits]
            loss = loss + REGULARIZER * torch.stack(penalties).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward(inputs=logits)  # type: ignore[no-untyped-call]
        optimizer.step()
        advance(1)


def _batch_error(found: Sequence[Tensor], expected: Sequence[Tensor]) -> Tensor:
    """Return the squared error over the mean square, averaged over the tensors."""
    terms = [
        (a - b).square().mean() / b.square().mean().clamp_min(1e-12)
        for a, b in zip(found, expected, strict=True)
    ]
    return torch.stack(terms).mean()


@torch.no_grad()
def _error(body: fx.GraphModule, data: tuple[Batches, Batches]) -> float:
    errors = [_batch_error(body(*x), y) for x, y in zip(*data, strict=True)]
    return float(torch.stack(errors).mean())
