"""to_program and save_model: names, shapes, free batch, refusals."""

import pytest
import torch
from torch import nn

from edgekd import save_model
from edgekd.errors import ModelError
from edgekd.model.load import OpenedModel, open_model
from edgekd.model.program import example_from_program, to_program


class Function(nn.Module):
    """A module made of a function, with one weight."""

    def __init__(self, function):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.function = function

    def forward(self, x):
        return self.function(x * self.weight)


class Two(nn.Module):
    def forward(self, ids, mask):
        return {"sum": ids.float() * mask, "first": mask[:, 0]}


def opened(module):
    return OpenedModel("state_dict", module.eval(), None, "0" * 64, {"file": "m.pt"})


def describe(loaded):
    return [str(s) for s in (*loaded.spec.inputs, *loaded.spec.outputs)]


def roundtrip(module, example, tmp_path):
    save_model(module, example, tmp_path / "m.pt2")
    return open_model(tmp_path / "m.pt2")


@pytest.mark.parametrize(
    ("function", "outputs"),
    [
        (lambda x: x + 1, ["output: float32[N, 4]"]),
        (lambda x: (x, x.sum(1)), ["output_0: float32[N, 4]", "output_1: float32[N]"]),
        (lambda x: [x.argmax(1)], ["output_0: int64[N]"]),
        (lambda x: {"b": x, "a": x[:, :2]}, ["b: float32[N, 4]", "a: float32[N, 2]"]),
    ],
)
def test_outputs_are_named(function, outputs, tmp_path):
    loaded = to_program(opened(Function(function)), (torch.randn(5, 4),))
    assert describe(loaded) == ["x: float32[N, 4]", *outputs]
    assert [x.shape[0] for x in loaded.example] == [2]
    again = to_program(roundtrip(Function(function), torch.randn(1, 4), tmp_path), None)
    assert describe(again) == describe(loaded)


def test_several_inputs_have_forwards_names():
    example = (torch.ones(3, 6, dtype=torch.int64), torch.ones(3, 6))
    loaded = to_program(opened(Two()), example)
    assert describe(loaded) == [
        "ids: int64[N, 6]", "mask: float32[N, 6]", "sum: float32[N, 6]", "first: float32[N]",
    ]  # fmt: skip


def test_the_batch_is_free_and_results_are_the_same(tmp_path):
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5))
    module.eval()
    first = roundtrip(module, torch.randn(1, 3, 8, 8), tmp_path)
    loaded = to_program(first, None)
    assert loaded.program is first.program  # nothing to export again
    x = torch.randn(7, 3, 8, 8)
    assert torch.allclose(loaded.program.module()(x), module(x), atol=1e-6)


def test_save_model_leaves_the_module_alone(tmp_path):
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout())
    module.train()
    module[1].eval()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    save_model(module, torch.randn(3, 4), tmp_path / "m.pt2")
    assert [layer.training for layer in module.modules()] == [True, True, False, True]
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.pt2"]
    assert (tmp_path / "m.pt2").stat().st_mode & 0o777 == 0o644


def test_save_model_keeps_the_old_file_when_it_fails(tmp_path):
    path = tmp_path / "m.pt2"
    path.write_bytes(b"old")
    with pytest.raises(ModelError, match="does not run"):
        save_model(nn.Linear(4, 2), torch.randn(2, 5), path)
    assert path.read_bytes() == b"old"
    with pytest.raises(ModelError, match="cannot be written: No such file"):
        save_model(nn.Linear(4, 2), torch.randn(2, 4), tmp_path / "none/m.pt2")


def test_export_prints_nothing(tmp_path, capfd):
    recurrent = nn.Sequential(nn.Embedding(9, 4), nn.GRU(4, 3, batch_first=True))
    loaded = to_program(roundtrip(recurrent, torch.randint(0, 9, (1, 5)), tmp_path), None)
    assert describe(loaded)[1] == "output_0: float32[N, 5, 3]"
    with pytest.raises(ModelError):
        to_program(opened(Function(lambda x: x.view(2, 4))), (torch.randn(2, 4),))
    assert capfd.readouterr() == ("", "")


def static(module, example, tmp_path):
    torch.export.save(torch.export.export(module.eval(), example), tmp_path / "static.pt2")
    return open_model(tmp_path / "static.pt2")


@pytest.mark.parametrize("batch", [1, 4])
def test_a_static_batch_is_freed_where_possible(tmp_path, batch):
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2))
    first = static(module, (torch.randn(batch, 3, 5, 5),), tmp_path)
    assert example_from_program(first)[0].shape == (2, 3, 5, 5)
    loaded = to_program(first, None)
    x = torch.randn(6, 3, 5, 5)
    assert torch.allclose(loaded.program.module()(x), module(x), atol=1e-6)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_static_batch_in_the_graph_is_named(tmp_path, batch):
    module = Function(lambda x: x.view(x.shape[0], -1))
    first = static(module, (torch.randn(batch, 2, 2),), tmp_path)
    with pytest.raises(ModelError, match=r"fixed batch size.*edgekd.save_model"):
        to_program(first, None)


def test_a_batch_that_changes_the_result_is_refused(tmp_path):
    module = Function(lambda x: x * torch.arange(1, x.shape[0] + 1).sum())
    first = static(module, (torch.randn(4, 3),), tmp_path)
    loaded = to_program(first, None)  # a constant 10 in the graph: still the same for every row
    assert loaded.spec.inputs[0].shape == (None, 3)
    mixing = static(Function(lambda x: x - x.mean(0)), (torch.randn(4, 3),), tmp_path)
    with pytest.raises(ModelError, match="its result changes with the batch"):
        to_program(mixing, None)


def test_a_limited_batch_is_freed(tmp_path):
    shapes = ({0: torch.export.Dim("batch", min=2, max=8)},)
    program = torch.export.export(
        nn.Linear(3, 2).eval(), (torch.randn(4, 3),), dynamic_shapes=shapes
    )
    torch.export.save(program, tmp_path / "m.pt2")
    loaded = to_program(open_model(tmp_path / "m.pt2"), None)
    assert loaded.program.module()(torch.randn(20, 3)).shape == (20, 2)


def test_keyword_inputs_are_refused(tmp_path):
    program = torch.export.export(nn.Linear(3, 2).eval(), (), {"input": torch.randn(2, 3)})
    torch.export.save(program, tmp_path / "m.pt2")
    with pytest.raises(ModelError, match=r"keyword inputs \(input\)"):
        to_program(open_model(tmp_path / "m.pt2"), None)


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x):
        self.calls.add_(1)
        return x + self.calls


@pytest.mark.parametrize(
    ("module", "example", "message"),
    [
        (nn.Linear(4, 2), (torch.randn(2, 5),), r"inputs of shape \(2, 5\) float32: mat1 and mat2"),
        (nn.Linear(4, 2), (torch.tensor(1.0),), r"input 0 of shape \(\) has no batch axis"),
        (nn.Linear(4, 2), (torch.randn(0, 4),), "has no batch axis"),
        (nn.Linear(4, 2), (), "axis 0 of every input"),
        (nn.Linear(4, 2), (3,), "input 0 is a int, not a tensor"),
        (Two(), (torch.ones(2, 6), torch.ones(6)), r"shapes given: \(2, 6\), \(6,\)"),
        (Function(lambda x: x.view(2, 4)), (torch.randn(2, 4),), "it fixes the batch size"),
        (
            Function(lambda x: x if x.sum() > 0 else -x),
            (torch.randn(2, 4),),
            "control flow depends on the values",
        ),
        (Function(lambda x: {"a": {"b": x}}), (torch.randn(2, 4),), "nested or empty"),
        (Function(lambda x: (x, [x, x])), (torch.randn(2, 4),), "nested or empty"),
        (Function(lambda x: (x, 3)), (torch.randn(2, 4),), "output_1 of the model is not a tensor"),
        (
            Function(lambda x: nn.functional.dropout(x, 0.5)),
            (torch.randn(2, 4),),
            r"runs aten.dropout.default in training mode",
        ),
        (Counter(), (torch.randn(2, 4),), "changes its buffer calls on every call"),
    ],
)
def test_what_cannot_be_compressed_is_said_in_one_line(module, example, message):
    with pytest.raises(ModelError, match=message) as error:
        to_program(opened(module), example)
    assert "\n" not in str(error.value)


def test_a_program_exported_in_training_mode(tmp_path):
    program = torch.export.export(
        nn.Sequential(nn.Linear(3, 2), nn.Dropout()).train(), (torch.randn(2, 3),)
    )
    torch.export.save(program, tmp_path / "m.pt2")
    with pytest.raises(ModelError, match=r"training mode|changes with the batch"):
        to_program(open_model(tmp_path / "m.pt2"), None)


def test_no_example_at_all():
    with pytest.raises(ModelError, match="give --input-shape, or data"):
        to_program(opened(nn.Linear(3, 2)), None)
