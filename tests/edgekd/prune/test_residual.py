from __future__ import annotations

import pytest
import torch
from prunable_networks import inputs
from pruning import prunable

from edgekd.graph.program import clone
from edgekd.graph.tensors import is_op
from edgekd.prune.residual import bypass, residual_blocks

aten = torch.ops.aten
BLOCKS = {
    "chain": [],
    "resnet": ["blocks.0"],  # the others have padded shortcuts
    "squeeze_excite": ["block.body"],
    "encoder": ["layers.0.attention", "layers.0", "layers.1.attention", "layers.1"],
    "vit": ["layers.0.attention", "layers.0.mlp", "layers.1.attention", "layers.1.mlp"],
    "rotary": ["add_2", "add_3"],
}


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_with_identity_shortcuts_are_found(name: str) -> None:
    assert [block.name for block in residual_blocks(prunable(name)[1])] == BLOCKS[name]


def test_a_block_is_what_only_its_branch_needs() -> None:
    (block,) = residual_blocks(prunable("resnet")[1])
    assert (block.add, block.shortcut) == ("add", "relu")
    assert block.nodes == ("conv2d_1", "batch_norm_1", "relu_1", "conv2d_2", "batch_norm_2")
    assert block.layers == ("blocks.0.a.0", "blocks.0.b.0")


@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_a_bypassed_block_adds_nothing(name: str) -> None:
    _, form, _ = prunable(name)
    blocks = residual_blocks(form)
    shorter = bypass(form, blocks, inputs(name, 2)).module
    silent = clone(form)
    nodes = {node.name: node for node in silent.graph.nodes}
    for block in blocks:  # the same program with zero times the branch
        add = nodes[block.add]
        (branch,) = [n for n in add.args if n is not nodes[block.shortcut]]
        with silent.graph.inserting_before(add):
            zero = silent.graph.call_function(aten.mul.Tensor, (branch, 0.0))
        add.replace_input_with(branch, zero)
    silent.recompile()
    with torch.no_grad():
        given = inputs(name, 5, seed=3)
        torch.testing.assert_close(shorter(*given), silent(*given))
    gone = {layer for block in blocks for layer in block.layers}
    assert not any(key.rpartition(".")[0] in gone for key in shorter.state_dict())
    sums = [node for node in shorter.graph.nodes if is_op(node, aten.add.Tensor)]
    assert len(sums) == {"resnet": 2, "vit": 1}[name]
