import pytest
from marks import with_slow
from networks import NETWORKS, quantized
from torch import fx

from edgekd.graph.extract import extract
from edgekd.quantize.blocks import find_blocks


def layers_by_block(name: str, runtime: str) -> tuple[list[int], list[str]]:
    found = quantized(name, runtime)
    blocks = find_blocks(found.fake)
    return [len(block.weights) for block in blocks], [block.ends[0].op for block in blocks]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("chain", [1, 1, 1, 1]),
        ("mlp", [1, 1, 1]),
        ("signal", [1, 1, 1]),
        ("resnet", [1, 2, 3, 3, 1]),  # two blocks have a selection as shortcut
        ("mobile", [1, 3, 1, 1]),
        ("concat", [1, 1, 1, 1]),
        ("two_inputs", [3, 1]),
    ],
)
@pytest.mark.parametrize("runtime", with_slow(["onnxruntime", "tensorrt"], ["tensorrt"]))
def test_blocks_are_residual_blocks_or_layers(name: str, expected: list[int], runtime: str) -> None:
    assert layers_by_block(name, runtime)[0] == expected


def test_a_block_ends_with_the_quantizer_that_the_next_one_reads() -> None:
    _, ends = layers_by_block("resnet", "onnxruntime")
    assert ends[:-1] == ["call_module"] * 4 and ends[-1] == "call_function"


@pytest.mark.parametrize("name", with_slow(NETWORKS, NETWORKS.keys() - {"resnet", "transformer"}))
@pytest.mark.parametrize("runtime", ["onnxruntime", "tensorrt"])
def test_blocks_follow_each_other_and_hold_every_weight(name: str, runtime: str) -> None:
    found = quantized(name, runtime)
    blocks = find_blocks(found.fake)
    assert sum(len(block.weights) for block in blocks) == len(found.placement.weights)
    floats = {node.name: node for node in found.graph.graph.nodes}
    values = found.inputs
    starts: tuple[fx.Node, ...] = tuple(n for n in found.fake.graph.nodes if n.op == "placeholder")
    for block in blocks:
        assert block.starts == starts
        values, starts = extract(found.fake, block.starts, block.ends)(*values), block.ends
        edges = (
            [floats[n.meta.get("quantizes", n.name)] for n in e] for e in (block.starts, block.ends)
        )
        extract(found.graph, *edges)
