import torch
from networks import canonical, network, output_tensors

from edgekd.graph.extract import extract


def test_two_halves_make_the_whole() -> None:
    net, (x,) = network("resnet")
    graph = canonical(net, x)
    middle = next(n for n in graph.graph.nodes if str(n.target) == "aten.add.Tensor")
    first = [n for n in graph.graph.nodes if n.op == "placeholder"]
    last = graph.graph.output_node().all_input_nodes
    halves = extract(graph, first, [middle]), extract(graph, [middle], last)
    with torch.no_grad():
        whole = output_tensors(graph(x))
        assert torch.equal(halves[1](*halves[0](x))[0], whole[0])


def test_a_part_shares_its_tensors_with_the_whole() -> None:
    net, (x,) = network("mlp")
    graph = canonical(net, x)
    first = [n for n in graph.graph.nodes if n.op == "placeholder"]
    linear = next(n for n in graph.graph.nodes if str(n.target) == "aten.linear.default")
    part = dict(extract(graph, first, [linear]).named_parameters())
    whole = dict(graph.named_parameters())
    assert set(part) == {"layers.0.weight", "layers.0.bias"}
    assert all(part[name] is whole[name] for name in part)
