"""Block ends of float programs, and features chosen by the paths of modules."""

import pytest
import torch
from networks import NETWORKS, build, network, trace
from torch import fx, nn

from benchmarks.networks.encoder import TextEncoder
from benchmarks.networks.vit import VisionTransformer
from edgekd.graph.canonical import canonicalize, make_functional
from edgekd.graph.cuts import block_ends, cuts
from edgekd.graph.extract import extract
from edgekd.graph.program import output_tensors
from edgekd.graph.taps import feature_names, matching_taps


def program(net: nn.Module, *inputs: torch.Tensor) -> fx.GraphModule:
    graph, _ = trace(net, *inputs)
    make_functional(graph)
    return graph


def ends(graph: fx.GraphModule) -> list[str]:
    return [str(node.target).split(".")[1] for node in block_ends(graph)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("chain", ["relu"] * 3),
        ("mlp", ["relu"] * 2),
        ("signal", ["relu"] * 2),
        ("resnet", ["relu"] * 4),  # the stem and three residual blocks, behind their activations
        ("mobile", ["hardtanh", "add", "hardtanh"]),
        ("concat", ["relu", "cat", "relu"]),
        ("transformer", ["add", "add"]),
        ("two_inputs", ["relu"]),  # before that, both inputs are needed
    ],
)
def test_blocks_end_behind_their_norm_and_activation(name: str, expected: list[str]) -> None:
    net, inputs = network(name)
    assert ends(program(net, *inputs)) == expected


@pytest.mark.parametrize("name", NETWORKS)
def test_everything_behind_a_cut_can_be_computed_from_it(name: str) -> None:
    net, inputs = network(name)
    graph = program(net, *inputs)
    outputs = list(graph.graph.output_node().all_input_nodes)
    with torch.no_grad():
        expected = output_tensors(graph(*inputs))
        for cut in cuts(graph):
            given = [n for n in graph.graph.nodes if n.op == "placeholder"]
            (value,) = extract(graph, given, [cut])(*inputs)
            found = extract(graph, [cut], outputs)(value)
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def text_encoder() -> fx.GraphModule:
    ids, mask = torch.zeros(2, 64, dtype=torch.int64), torch.ones(2, 64, dtype=torch.int64)
    return program(build(lambda: TextEncoder(16, 2, 2, 32, vocabulary=10)), ids, mask)


def test_a_mask_that_every_layer_reads_does_not_hide_the_blocks() -> None:
    assert ends(text_encoder()) == ["layer_norm"] * 4  # behind attention and perceptron, twice


def test_a_vision_transformer_ends_its_blocks_at_the_residual_sums() -> None:
    net = build(lambda: VisionTransformer(16, 2, 2, 32))
    found = ends(program(net, torch.zeros(2, 3, 32, 32)))
    assert found == ["conv2d", "add", "add", "add", "layer_norm"]


def test_patterns_name_modules_part_by_part() -> None:
    graph = text_encoder()
    norms = feature_names(graph, ["layers.*"])
    assert norms == feature_names(graph, ["layers.?.norm2", "layers.1"]) and len(norms) == 2
    assert set(norms) < set(feature_names(graph))
    both = feature_names(graph, ["layers.1.up", "layers.0.*"])
    assert both[-1] == feature_names(graph, ["layers.1.up"])[0]  # in the order of the program
    with pytest.raises(ValueError) as caught:
        feature_names(graph, ["layers.*", "layer.*"])
    pattern, paths = caught.value.args
    assert pattern == "layer.*" and {"layers.0", "layers.0.attention.query"} <= set(paths)


def test_a_model_keeps_the_paths_through_canonical_form_and_without_recorded_modules() -> None:
    net, inputs = network("resnet")
    graph = program(net, *inputs)
    blocks = feature_names(graph, ["blocks.*"])
    assert blocks == feature_names(graph)[1:]
    canonicalize(graph)
    assert feature_names(graph, ["blocks.*"]) == blocks
    (conv,) = feature_names(graph, ["blocks.1.a.0"])
    for node in graph.graph.nodes:
        node.meta.pop("nn_module_stack", None)
    assert feature_names(graph, ["blocks.1.a.0"]) == [conv]


def test_taps_of_blocks_that_the_student_lost_are_left_out() -> None:
    net, inputs = network("resnet")
    teacher, student = program(net, *inputs), program(net, *inputs)
    lost = block_ends(student)[1]
    lost.name = "another"
    pairs = [(tap.student, tap.teacher) for tap in matching_taps(student, teacher)]
    names = feature_names(teacher)
    assert pairs == [(name, name) for name in names if name != names[1]]
