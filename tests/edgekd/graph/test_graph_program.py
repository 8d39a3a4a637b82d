import pytest
import torch
from networks import network, samples, trace
from torch import nn

from edgekd.errors import ModelError
from edgekd.graph.program import (
    clone,
    divide_first_output,
    output_nodes,
    output_tensors,
    refresh,
    sample_axes,
    to_module,
    to_program,
)
from edgekd.graph.tensors import add_tensor, clean, constant, free_name, is_float_tensor
from edgekd.model.trace import export_batched


def test_a_module_does_not_share_tensors_with_its_program() -> None:
    net, x = network("mlp")
    program = export_batched(net, x)
    module = to_module(program)
    with torch.no_grad():
        before = module(*x)
        for parameter in module.parameters():
            parameter.zero_()
        assert torch.equal(to_module(program)(*x), before)


def test_a_clone_is_independent() -> None:
    net, x = network("mlp")
    graph, _ = trace(net, *x)
    other = clone(graph)
    with torch.no_grad():
        next(other.parameters()).zero_()
        assert not torch.equal(graph(*x), other(*x))


def test_refresh_records_shapes() -> None:
    net, x = network("mlp")
    graph, _ = trace(net, *x)
    for node in graph.graph.nodes:
        node.meta.pop("val", None)
    fresh = refresh(graph, x)
    assert all(is_float_tensor(n) for n in fresh.graph.nodes if n.op == "call_function")
    assert torch.equal(fresh(*x), graph(*x))


def test_a_module_that_does_not_run_cannot_be_exported() -> None:
    net, x = network("mlp")
    graph, _ = trace(net, *x)
    with pytest.raises(ModelError, match="does not run"):
        to_program(graph, (samples(2, 3),))


def test_output_tensors_of_every_structure() -> None:
    a, b = torch.zeros(1), torch.ones(2)
    assert output_tensors(a) == (a,)
    for value in ((a, b), [a, b], {"x": a, "y": b}):
        found = output_tensors(value)
        assert found[0] is a and found[1] is b


def test_tensors_are_stored_replaced_and_dropped() -> None:
    net, x = network("mlp")
    graph, _ = trace(net, *x)
    first = next(node for node in graph.graph.nodes if node.op == "call_function")
    assert free_name(graph, "new.deep.tensor") == "new.deep.tensor"
    read = add_tensor(graph, "new.deep.tensor", torch.ones(3), before=first)
    assert torch.equal(constant(graph, read), torch.ones(3))
    assert free_name(graph, "new.deep.tensor") == "new.deep.tensor_2"
    add_tensor(graph, "new.deep.tensor", torch.zeros(3), before=first, trainable=True)
    assert torch.equal(constant(graph, read), torch.zeros(3))
    assert isinstance(constant(graph, read), nn.Parameter)
    clean(graph)  # nothing reads it
    assert "new.deep.tensor" not in dict(graph.named_parameters())
    assert constant(graph, first) is None and constant(graph, 3) is None


class OtherOrder(nn.Module):
    """Outputs with samples on the first axis, on the second, and joined with a second axis."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return x * 2, x.transpose(0, 1) * 2, x.reshape(-1, x.shape[2])


def test_samples_are_found_on_the_axis_that_is_free() -> None:
    module, _ = trace(OtherOrder(), samples(4, 3, 5))
    assert sample_axes(module) == [0, 1, 0]
    for node in module.graph.nodes:
        node.meta.pop("val", None)
    assert sample_axes(module) == [0, 0, 0]


class Both(nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = 2 * x
        return {"first": y, "again": y, "last": x + 1}


def test_only_the_first_output_is_divided() -> None:
    x = samples(2, 3)
    graph, _ = trace(Both().eval(), x)
    names = [node.name for node in output_nodes(graph)]
    divide_first_output(graph, 1.0)
    assert [node.name for node in output_nodes(graph)] == names
    divide_first_output(graph, 4.0)
    found = graph(x)
    torch.testing.assert_close(found, {"first": x / 2, "again": 2 * x, "last": x + 1})
    assert [node.name for node in output_nodes(graph)][1:] == names[1:]
