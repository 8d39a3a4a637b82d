import pytest
import torch
from networks import NETWORKS, network, trace
from torch import fx

from edgekd.graph.batchnorm import fold_batch_norm
from edgekd.graph.canonical import make_functional
from edgekd.graph.program import clone, output_tensors
from edgekd.graph.taps import Tap, add_taps, feature_names, matching_taps


def program(name: str) -> tuple[fx.GraphModule, tuple[torch.Tensor, ...]]:
    net, inputs = network(name)
    graph, _ = trace(net, *inputs)
    make_functional(graph)
    return graph, inputs


@pytest.mark.parametrize("name", NETWORKS)
def test_both_programs_give_their_outputs_and_then_the_same_tensors(name: str) -> None:
    graph, inputs = program(name)
    taps = matching_taps(graph, clone(graph))
    with torch.no_grad():
        student, teacher = (m(*inputs) for m in add_taps(graph, clone(graph), taps))
        outputs = output_tensors(graph(*inputs))
    assert len(student) == len(outputs) + len(taps)
    assert all(torch.equal(a, b) for a, b in zip(student, teacher, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(student, outputs, strict=False))


def test_training_what_has_taps_trains_the_student() -> None:
    graph, _ = program("resnet")
    tapped, _ = add_taps(graph, graph, matching_taps(graph, graph))
    own, shared = dict(graph.named_buffers()), dict(tapped.named_buffers())
    assert shared and all(own[name] is shared[name] for name in shared)
    assert tapped.get_parameter("stem.0.weight") is graph.get_parameter("stem.0.weight")


def test_a_smaller_student_is_compared_with_what_it_kept() -> None:
    graph, inputs = program("resnet")
    first, second = feature_names(graph)[:2]
    rows, channels = torch.tensor([0, 5, 1]), torch.tensor([3, 1])
    taps = [Tap(first, first, (None, channels)), Tap(second, second, (None, None, rows))]
    with torch.no_grad():
        whole, kept = (m(*inputs) for m in add_taps(graph, graph, taps))
    assert torch.equal(kept[1], whole[1][:, channels]) and kept[1].shape[1] == 2
    assert torch.equal(kept[2], whole[2][:, :, rows])
    assert not any("kept" in name for name, _ in graph.named_buffers())


def test_a_teacher_with_taps_can_have_its_batch_norms_folded() -> None:
    """A tap behind a batch norm follows it into the layer; one before it keeps it as it is."""
    graph, inputs = program("resnet")
    nodes = [node.name for node in graph.graph.nodes]
    names = [name for name in nodes if name in ("conv2d", "batch_norm", "batch_norm_1")]
    _, teacher = add_taps(graph, graph, [Tap(name, name) for name in names])
    with torch.no_grad():
        before = teacher(*inputs)
        folded = clone(teacher)
        assert fold_batch_norm(folded) == sum("batch_norm" in name for name in nodes) - 1
        after = folded(*inputs)
    for a, b in zip(before, after, strict=True):
        assert torch.allclose(a, b, atol=1e-4)
