import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import build, conv_bn, network, samples, trace
from torch import fx, nn

from edgekd.graph.batchnorm import batch_norms
from edgekd.graph.batchnorm_mode import reestimate_batch_norm, train_batch_norm
from edgekd.graph.canonical import make_functional
from edgekd.graph.program import clone


def program(name: str = "resnet") -> tuple[nn.Module, fx.GraphModule, torch.Tensor]:
    net, (x,) = network(name)
    graph, _ = trace(net, x)
    make_functional(graph)
    return net, graph, x


def test_a_program_in_training_mode_does_what_the_module_does() -> None:
    net, graph, x = program()
    train_batch_norm(graph, True)
    assert torch.allclose(graph(x), net.train()(x), atol=1e-5)
    expected = dict(net.named_buffers())
    for name, found in graph.named_buffers():
        if not name.endswith("num_batches_tracked"):  # nothing reads it
            assert torch.allclose(found, expected[name], atol=1e-5), name
    train_batch_norm(graph, False)
    assert torch.allclose(graph(x), net.eval()(x), atol=1e-5)


def test_running_statistics_of_a_cumulative_average_move_too() -> None:
    net = build(lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, momentum=None)))
    graph, _ = trace(net, samples(2, 3, 4, 4))
    before = clone(graph)
    train_batch_norm(graph, True)(samples(8, 3, 4, 4))
    pairs = zip(graph.named_buffers(), before.buffers(), strict=True)
    assert not any(torch.equal(a, b) for (n, a), b in pairs if n.endswith(("_mean", "_var")))


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(2, 9), min_size=1, max_size=4))
def test_reestimated_statistics_are_those_of_all_samples(sizes: list[int]) -> None:
    """For the first batch norm, whose input does not depend on how samples are batched."""
    net = build(lambda: nn.Sequential(*conv_bn(3, 4)))
    graph, _ = trace(net, samples(2, 3, 6, 6))
    x = samples(sum(sizes), 3, 6, 6)
    assert reestimate_batch_norm(graph, ((part,) for part in x.split(sizes))) == len(sizes)
    seen = net[0](x)
    (norm,) = batch_norms(graph)
    stored = dict(graph.named_buffers())
    mean, variance = (stored[str(norm.args[i].target)] for i in (3, 4))
    assert torch.allclose(mean, seen.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(variance, seen.var((0, 2, 3)), rtol=0.02)  # unbiased in each batch


def test_with_reestimated_statistics_inference_does_what_training_did() -> None:
    _, graph, x = program()
    wanted = train_batch_norm(clone(graph), True)(x)
    apart = (graph(x) - wanted).norm()
    reestimate_batch_norm(graph, [(x,)])
    assert (graph(x) - wanted).norm() < 0.05 * apart
    assert not any(norm.args[5] for norm in batch_norms(graph))


@pytest.mark.parametrize("name", ["mlp", "resnet"])
def test_without_batches_or_batch_norms_nothing_changes(name: str) -> None:
    _, graph, x = program(name)
    before = {k: v.clone() for k, v in graph.state_dict().items()}
    count = reestimate_batch_norm(graph, [] if name == "resnet" else [(x,)])
    assert count == 0
    assert all(torch.equal(v, before[k]) for k, v in graph.state_dict().items())


def test_frozen_batch_norms_stay_in_inference_and_keep_their_statistics() -> None:
    _, graph, x = program()
    means = [str(norm.args[3].target) for norm in batch_norms(graph)]  # type: ignore[union-attr]
    frozen = set(means[:3])
    before = {name: value.clone() for name, value in graph.named_buffers()}
    train_batch_norm(graph, True, frozen=frozen)
    assert [norm.args[5] for norm in batch_norms(graph)] == [m not in frozen for m in means]
    graph(x)
    moved = {name for name, value in graph.named_buffers() if not torch.equal(value, before[name])}
    assert moved == {name.replace("_mean", end) for name in means[3:] for end in ("_mean", "_var")}
    train_batch_norm(graph, False)
    now = {name: value.clone() for name, value in graph.named_buffers()}
    assert reestimate_batch_norm(graph, [(x,)], frozen=frozen) == 1
    again = {name for name, value in graph.named_buffers() if not torch.equal(value, now[name])}
    assert again == moved
    assert reestimate_batch_norm(graph, [(x,)], frozen=means) == 0
