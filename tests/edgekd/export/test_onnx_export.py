import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from marks import with_slow
from networks import IMAGE, Chain, build, conv_bn, network, nodes_of, run_onnx, samples, trace
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, fx, nn

from edgekd.errors import ExportError
from edgekd.export.onnx import export_onnx
from edgekd.export.opset import lower_opset
from edgekd.graph.program import output_tensors
from edgekd.spec import ModelSpec


class Lambda(nn.Module):
    def __init__(self, function: Callable) -> None:
        super().__init__()
        self.function, self.conv = function, conv_bn(3, 4)

    def forward(self, x: Tensor) -> object:
        return self.function(self, x)


def exported(net: nn.Module, *x: Tensor, opset: int = 17) -> tuple[bytes, ModelSpec]:
    graph, spec = trace(net, *x)
    return export_onnx(graph, x, spec, opset=opset), spec


def check(function: Callable, opset: int = 17) -> tuple[onnx.ModelProto, ModelSpec]:
    """Export a network, compare all of its outputs at another batch size."""
    net = build(lambda: Lambda(function))
    model, spec = exported(net, samples(2, *IMAGE), opset=opset)
    x = samples(5, *IMAGE, seed=1)
    with torch.no_grad():
        expected = output_tensors(net(x))
    for found, wanted in zip(run_onnx(model, spec, x), expected, strict=True):
        assert np.allclose(found, wanted, atol=1e-5)
    return onnx.load_from_string(model), spec


@pytest.mark.parametrize("opset", [13, 17, 18, 20])
def test_the_model_is_of_the_opset_asked_for(opset: int) -> None:
    """Reductions and splits are what torch's own conversion to opset 17 fails on."""

    def reduce_and_split(s: Lambda, x: Tensor) -> Tensor:
        y, z = F.relu(s.conv(x)).chunk(2, 1)
        y = F.interpolate(torch.cat([z, y], 1), scale_factor=2.0)
        y = F.pad(y, (1, 0, 0, 1))
        return y.mean(1) + y.amax(1) + y.sum((1, 2), keepdim=True)[:, 0]

    model, _ = check(reduce_and_split, opset)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
    onnx.checker.check_model(model, full_check=True)


@pytest.mark.parametrize(
    "function",
    [
        lambda s, x: {"relu": F.relu(s.conv(x)), "conv2d": s.conv(x)},
        lambda s, x: {"conv2d": F.relu(s.conv(x)).mean((2, 3)), "relu": x.flatten(1)},
        lambda s, x: (F.relu(s.conv(x)), s.conv(x).sigmoid()),
        lambda s, x: {"conv.0.weight": s.conv(x)},
        lambda s, x: {"mean": s.conv(x).mean((2, 3)).relu()},
    ],
)
def test_ends_are_named_by_the_spec_whatever_is_inside(function: Callable) -> None:
    model, spec = check(function)
    assert [value.name for value in model.graph.input] == ["x"]
    assert [value.name for value in model.graph.output] == [t.name for t in spec.outputs]


def test_a_tensor_can_be_two_outputs() -> None:
    def twice(s: Lambda, x: Tensor) -> dict[str, Tensor]:
        y = F.relu(s.conv(x))
        return {"a": y, "b": y}

    model, _ = check(twice)
    assert [value.name for value in model.graph.output] == ["a", "b"]


@pytest.mark.parametrize("function", [lambda s, x: x, lambda s, x: (s.conv(x), x)])
def test_an_input_can_be_an_output(function: Callable) -> None:
    model, spec = check(function)
    assert [value.name for value in model.graph.output] == [t.name for t in spec.outputs]


def test_the_batch_is_free_and_named() -> None:
    net, inputs = network("two_inputs")
    model, _ = exported(net, *inputs)
    graph = onnx.load_from_string(model).graph
    for value in [*graph.input, *graph.output]:
        first, *others = value.type.tensor_type.shape.dim
        assert first.dim_param == "batch"
        assert all(dim.dim_value > 0 for dim in others)


@pytest.fixture(scope="module")
def chain() -> tuple[fx.GraphModule, ModelSpec, Tensor]:
    x = samples(2, *IMAGE)
    return *trace(build(Chain), x), x


def test_nothing_tells_of_the_machine_that_wrote_the_model(chain) -> None:
    graph, spec, x = chain
    data = export_onnx(graph, (x,), spec, opset=17)
    model = onnx.load_from_string(data)
    assert not model.metadata_props and not model.graph.metadata_props
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    for trace_of_build in (b"/edgekd", b".py", b"site-packages", b"Traceback", b"pkg.torch"):
        assert trace_of_build not in data
    assert str(Path.cwd()).encode() not in data
    assert model.producer_name == "edgekd"


def test_the_same_model_gives_the_same_bytes_and_no_output(chain, capfd) -> None:
    graph, spec, x = chain
    first = export_onnx(graph, (x,), spec, opset=17)
    assert first == export_onnx(graph, (x,), spec, opset=17)
    assert capfd.readouterr() == ("", "")


def test_layers_are_named_after_their_weights_and_names_are_unique() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.weight = nn.Conv2d(3, 3, 3, padding=1), nn.Parameter(samples(2, 192))
            self.up = nn.ConvTranspose2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.up(self.conv(self.conv(x)))
            return F.linear(x.flatten(1), self.weight)

    model, _ = exported(build(Tied), samples(2, *IMAGE))
    names = [n.name for n in nodes_of(model, "Conv", "ConvTranspose", "Gemm", "MatMul")]
    assert names == ["conv", "conv_", "up", "weight"]
    every = [node.name for node in onnx.load_from_string(model).graph.node]
    assert len(every) == len(set(every)) and all(every)


def test_what_torch_cannot_export_is_one_line() -> None:
    def unsupported(s: Lambda, x: Tensor) -> Tensor:
        return torch.linalg.eigvals(x[:, 0]).real

    with pytest.raises(ExportError, match=r"cannot be written as ONNX opset 17") as caught:
        exported(build(lambda: Lambda(unsupported)), samples(2, *IMAGE))
    assert "\n" not in str(caught.value) and not re.search(r"/\w+/\w+\.py", str(caught.value))


def one_node(
    op: str, inputs: list[str], outputs: list[str], **attributes: object
) -> onnx.ModelProto:
    def tensor(name: str, *shape: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    parts = {1: [(4, 6)], 2: [(4, 4), (4, 2)]}[len(outputs)]
    graph = helper.make_graph(
        [helper.make_node(op, inputs, outputs, name="it", **attributes)],
        "graph",
        [tensor(name, 4, 6) for name in inputs if name in ("x", "y")],
        [tensor(name, *shape) for name, shape in zip(outputs, parts, strict=True)],
        [
            numpy_helper.from_array(np.array([1], np.int64), "axes"),
            numpy_helper.from_array(np.array([0, 6], np.int64), "zeros"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


@pytest.mark.parametrize("name", with_slow(["resnet", "mobile", "concat"], ["mobile", "concat"]))
def test_opset_13_computes_the_same(name: str) -> None:
    """TensorRT 8.2 reads no newer one; what came after it is types, and ways to say the same."""
    net, (x, *_) = network(name)
    net.eval()
    data, spec = exported(net, x, opset=13)
    model = onnx.load_from_string(data)
    assert [entry.version for entry in model.opset_import] == [13]
    onnx.checker.check_model(model, full_check=True)
    with torch.no_grad():
        expected = output_tensors(net(x[:3]))
    for found, wanted in zip(run_onnx(data, spec, x[:3]), expected, strict=True):
        assert np.allclose(found, wanted, atol=1e-4)


def test_a_part_of_a_shape_becomes_a_slice() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["some"], start=1, end=-1),
        helper.make_node("Shape", ["x"], ["rest"], start=2),
        helper.make_node("Shape", ["x"], ["all"]),
    ]
    names = ("some", "rest", "all")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 4, 5])
    ends = [helper.make_tensor_value_info(name, TensorProto.INT64, [None]) for name in names]
    graph = helper.make_graph(nodes, "graph", [x], ends)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    lower_opset(model, 13)
    onnx.checker.check_model(model, full_check=True)
    found = ReferenceEvaluator(model).run(None, {"x": np.zeros((2, 3, 4, 5), np.float32)})
    assert [list(shape) for shape in found] == [[3, 4], [4, 5], [2, 3, 4, 5]]


@pytest.mark.parametrize(
    "model",
    [
        one_node("Reshape", ["x", "zeros"], ["z"], allowzero=1),  # a zero would mean another size
        one_node("ScatterElements", ["x", "axes", "y"], ["z"], reduction="add"),
        one_node("GRU", ["x", "y", "y"], ["z"], layout=1),
    ],
)
def test_what_opset_13_cannot_say_is_refused(model: onnx.ModelProto) -> None:
    with pytest.raises(ExportError, match="cannot be written in opset 13"):
        lower_opset(model, 13)


def test_axes_become_an_attribute() -> None:
    model = one_node("ReduceMean", ["x", "axes"], ["z"], noop_with_empty_axes=0)
    lower_opset(model, 17)
    (node,) = model.graph.node
    assert list(node.input) == ["x"] and not model.graph.initializer
    assert [(a.name, list(a.ints)) for a in node.attribute] == [("axes", [1])]


@pytest.mark.parametrize(
    "model",
    [
        one_node("ReduceMean", ["x", "y"], ["z"]),  # axes are computed
        one_node("Split", ["x"], ["a", "b"], num_outputs=2, axis=1),  # the last part is smaller
        one_node("Mish", ["x"], ["z"]),  # new in opset 18
        one_node("Resize", ["x", "", "y"], ["z"], antialias=1),
    ],
)
def test_what_the_older_opset_cannot_say_is_refused(model: onnx.ModelProto) -> None:
    with pytest.raises(ExportError, match="cannot be written in opset 17"):
        lower_opset(model, 17)
