"""Where exits can be, by module and by cost, in float and behind quantization."""

from __future__ import annotations

import re

import pytest
import torch
from networks import NETWORKS, ResNet, build, network, quantize, samples, trace
from torch import fx

from benchmarks.networks.vit import VisionTransformer
from edgekd.exits.places import FIRST, LAST, Place, find_places
from edgekd.graph.canonical import make_functional, remove_identities
from edgekd.graph.cuts import cuts
from edgekd.graph.extract import extract
from edgekd.graph.layers import is_grid_step, is_quantized, layer_macs
from edgekd.graph.program import clone, output_nodes, output_tensors
from edgekd.prune.layers import record_shapes


def program(name: str) -> fx.GraphModule:
    net, inputs = network(name)
    graph, _ = trace(net, *inputs)
    make_functional(graph)
    remove_identities(graph)
    return graph


def costs(graph: fx.GraphModule) -> dict[str, float]:
    return {node.name: float(layer_macs(graph, node)) for node in graph.graph.nodes}


def found(graph: fx.GraphModule, *at: str, candidates: int = 4) -> list[Place]:
    return find_places(graph, costs(graph), at, candidates)


@pytest.mark.parametrize("name", NETWORKS)
def test_one_tensor_crosses_at_every_place_and_all_else_follows_from_it(name: str) -> None:
    graph = program(name)
    _, inputs = network(name)
    places = found(graph, candidates=6)
    assert {p.node for p in places} <= {node.name for node in cuts(graph)}
    assert [p.share for p in places] == sorted({p.share for p in places})
    nodes = {node.name: node for node in graph.graph.nodes}
    given = [node for node in graph.graph.nodes if node.op == "placeholder"]
    with torch.no_grad():
        expected = output_tensors(graph(*inputs))
        for place in places:
            (value,) = extract(graph, given, [nodes[place.node]])(*inputs)
            behind = extract(graph, [nodes[place.node]], output_nodes(graph))
            assert all(map(torch.equal, behind(value), expected))


def test_a_module_is_found_behind_its_activation() -> None:
    graph = program("resnet")
    assert [p.after for p in found(graph, "blocks.*")] == ["blocks.0", "blocks.1", "blocks.2"]
    (stem,) = found(graph, "stem")
    node = next(node for node in graph.graph.nodes if node.name == stem.node)
    assert str(node.target) == "aten.relu.default"
    deep_first = found(graph, "blocks.2", "blocks.0")
    assert [p.after for p in deep_first] == ["blocks.0", "blocks.2"]
    assert 0 < deep_first[0].share < deep_first[1].share <= 1


@pytest.mark.parametrize("pattern", ["blocks.1.a", "blocks.1.a.*", "block.1", "blocks", "head", ""])
def test_no_exit_inside_a_residual_branch_or_behind_what_is_not_there(pattern: str) -> None:
    graph = program("resnet")
    if pattern == "blocks":  # ends where its last block ends
        assert [p.node for p in found(graph, "blocks")] == [
            p.node for p in found(graph, "blocks.2")
        ]
        return
    with pytest.raises(ValueError) as caught:
        found(graph, "blocks.0", pattern)
    refused, names = caught.value.args
    assert refused == pattern
    assert {"stem", "blocks.0", "blocks.1", "blocks.2"} <= set(names)
    assert not {"head", "blocks.1.a"} & set(names)


def test_places_are_spread_by_cost_and_none_is_taken_twice() -> None:
    net = build(lambda: VisionTransformer(16, 12, 2, 32))
    graph, _ = trace(net, samples(2, 3, 32, 32))
    make_functional(graph)
    few = found(graph, candidates=4)
    wanted = [FIRST + (LAST - FIRST) * i / 3 for i in range(4)]
    for place, share in zip(few, wanted, strict=True):
        assert abs(place.share - share) <= 1 / 22  # half of 12 layers
    assert all(re.fullmatch(r"layers\.\d+", place.after) for place in few)  # not inside a layer
    assert found(graph, *(place.after for place in few)) == few
    (one,) = found(graph, candidates=1)
    assert abs(one.share - (FIRST + LAST) / 2) <= 1 / 22
    resnet = program("resnet")
    all_of_them = found(resnet, candidates=6)
    assert len({p.node for p in all_of_them}) == len(all_of_them) <= 4


def test_costs_and_not_the_count_of_layers_decide() -> None:
    graph = program("resnet")
    layers = [name for name, cost in costs(graph).items() if cost]
    heavy_end = dict.fromkeys(layers, 1.0) | {layers[-2]: 1000.0}
    assert all(p.share < 0.05 for p in find_places(graph, heavy_end, (), 2))


@pytest.mark.parametrize("runtime", ["onnxruntime", "tensorrt"])
def test_places_of_a_quantized_program_are_behind_its_grid_steps(runtime: str) -> None:
    graph = clone(quantize(build(ResNet), samples(16, 3, 8, 8), runtime=runtime).converted)
    assert is_quantized(graph)
    nodes = {node.name: node for node in graph.graph.nodes}
    places = found(graph, "blocks.*")
    assert [p.after for p in places] == ["blocks.0", "blocks.1", "blocks.2"]
    if runtime == "onnxruntime":  # everything is on a grid there
        assert all(is_grid_step(nodes[p.node]) for p in places)
        assert all("dequantize" in str(nodes[p.node].target) for p in places)
    in_float = {p.after: p.share for p in found(program("resnet"), "blocks.*")}
    for place in places:
        # Shortcuts of padded channels are small convolutions there.
        assert place.share == pytest.approx(in_float[place.after], abs=0.03)


def test_a_quantized_list_of_tokens_keeps_its_places_and_shares() -> None:
    net = build(lambda: VisionTransformer(16, 3, 2, 32))
    x = samples(8, 3, 32, 32)
    graph = clone(quantize(net, x).converted)
    shapes = record_shapes(graph, (x[:2],))
    places = found(graph, "layers.*")
    assert [p.after for p in places] == ["layers.0", "layers.1", "layers.2"]
    nodes = {node.name: node for node in graph.graph.nodes}
    assert {shapes[p.node] for p in places} <= {(64, 16), (1, 64, 16)}
    assert all(p.node in {n.name for n in cuts(graph)} for p in places)
    assert all(nodes[p.node].op == "call_function" for p in places)
