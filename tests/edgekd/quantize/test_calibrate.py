import math

import pytest
import torch
from networks import canonical, network, samples, trace
from torch import nn

from edgekd.errors import StageError
from edgekd.quantize import onnxruntime, tensorrt
from edgekd.quantize.calibrate import calibrate


def relu_graph() -> tuple:
    net = nn.Sequential(nn.ReLU()).eval()
    graph, _ = trace(net, samples(2, 4))
    names = [node.name for node in graph.graph.nodes if node.op in ("placeholder", "call_function")]
    return graph, names


def ranges(batches: list, method="minmax", scheme=onnxruntime.SCHEME):
    graph, names = relu_graph()
    found = calibrate(graph, names, lambda: [(x,) for x in batches], scheme, method)
    return [found[name] for name in names]


def test_minmax_covers_all_batches_the_small_last_one_too() -> None:
    batches = [torch.tensor([[-1.0, 2, 0, 0]]).repeat(8, 1), torch.tensor([[5.0, -3, 0, 0]])]
    assert ranges(batches) == [(-3.0, 5.0), (0.0, 5.0)]


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse", "entropy"])
@pytest.mark.parametrize("value", [0.0, 2.5, -2.5])
def test_constant_tensors(method: str, value: float) -> None:
    lo, hi = ranges([torch.full((3, 4), value)], method)[0]
    assert (lo, hi) == (min(value, 0), max(value, 0))


def test_percentile_and_mse_leave_an_outlier_out() -> None:
    x = samples(1000, 40)
    x[0, 0] = 1000.0
    assert ranges([x], "percentile")[1][1] < 20
    assert ranges([x], "minmax")[1][1] == 1000


def test_histograms_add_up_over_batches() -> None:
    batches = [samples(100, 4, seed=seed) for seed in range(3)]
    for method in ("percentile", "mse", "entropy"):
        apart, together = ranges(batches, method), ranges([torch.cat(batches)], method)
        for a, b in zip(apart, together, strict=True):
            assert a == pytest.approx(b)


def test_a_symmetric_scheme_gets_a_symmetric_range() -> None:
    lo, hi = ranges([samples(500, 4)], "mse", tensorrt.SCHEME)[0]
    assert lo == -hi


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_the_first_node_that_is_not_finite_is_named(bad: float) -> None:
    net, x = network("mlp")
    with torch.no_grad():
        net.layers[2].weight[3, 3] = bad
    graph = canonical(net, *x)
    names = [tensor.node for tensor in onnxruntime.place(graph).tensors]
    with pytest.raises(StageError, match=r"output of \w*1 is not finite"):
        calibrate(graph, names, lambda: [x], onnxruntime.SCHEME, "minmax")


def test_only_the_tensors_asked_for_are_observed() -> None:
    graph, names = relu_graph()
    found = calibrate(graph, names[:1], lambda: [(samples(2, 4),)], onnxruntime.SCHEME, "mse")
    assert list(found) == names[:1]
