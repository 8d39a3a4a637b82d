"""Further teachers: files that only answer."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from edgekd.distillation.teachers import BlackBox, Panel, open_teacher
from edgekd.errors import ModelError
from edgekd.export.onnx import export_onnx
from edgekd.graph.program import to_module
from edgekd.model.load import OpenedModel
from edgekd.model.program import LoadedModel, to_program
from edgekd.model.save import save_model

EXAMPLE = (torch.zeros(2, 6),)


def loaded(outputs: int = 3) -> LoadedModel:
    torch.manual_seed(outputs)
    return to_program(OpenedModel("x", nn.Linear(6, outputs).eval(), None, "", {}), EXAMPLE)


def onnx_file(model: LoadedModel, path: Path) -> Path:
    path.write_bytes(export_onnx(to_module(model.program), EXAMPLE, model.spec, opset=17))
    return path


def test_both_kinds_of_files_answer_as_the_network(tmp_path: Path) -> None:
    torch.manual_seed(5)
    net, x = nn.Linear(6, 3).eval(), torch.randn(4, 6)
    save_model(net, EXAMPLE[0], tmp_path / "t.pt2")
    wanted = to_program(OpenedModel("x", net, None, "", {}), EXAMPLE)
    files = [tmp_path / "t.pt2", onnx_file(wanted, tmp_path / "t.onnx")]
    for box in (open_teacher(path, loaded()) for path in files):
        torch.testing.assert_close(box.predict((x,)), net(x).detach())


def top_k_file(model: LoadedModel, path: Path, *, softmax: bool = True) -> Path:
    """Write the model with nothing but its two likeliest classes as outputs."""
    graph = onnx.load(onnx_file(model, path))
    (logits,) = (output.name for output in graph.graph.output)
    first = "probabilities" if softmax else logits
    if softmax:
        graph.graph.node.append(onnx.helper.make_node("Softmax", [logits], [first], axis=-1))
    graph.graph.initializer.append(onnx.helper.make_tensor("k", onnx.TensorProto.INT64, [1], [2]))
    graph.graph.node.append(onnx.helper.make_node("TopK", [first, "k"], ["values", "classes"]))
    del graph.graph.output[:]
    for name, kind in (("values", onnx.TensorProto.FLOAT), ("classes", onnx.TensorProto.INT64)):
        graph.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, ["N", 2]))
    onnx.save(graph, path)
    return path


def test_a_file_may_tell_its_likeliest_classes_alone(tmp_path: Path) -> None:
    x, model = torch.randn(5, 6), loaded(4)
    expected = to_module(model.program)(x).softmax(-1).detach()
    found = open_teacher(top_k_file(model, tmp_path / "t.onnx"), model).predict((x,)).softmax(-1)
    values, classes = expected.topk(2)
    torch.testing.assert_close(found.gather(1, classes), values)
    others = torch.ones(5, 4).scatter(1, classes, 0.0).bool()
    left = ((1 - values.sum(1, keepdim=True)) / 2).expand(5, 2)
    torch.testing.assert_close(found[others].reshape(5, 2), left)


def test_likeliest_classes_with_logits_say_too_little(tmp_path: Path) -> None:
    torch.manual_seed(4)
    net = nn.Linear(6, 4).eval()
    with torch.no_grad():
        net.bias.copy_(torch.arange(4.0))
    model = to_program(OpenedModel("x", net, None, "", {}), EXAMPLE)
    path = top_k_file(model, tmp_path / "t.onnx", softmax=False)
    with pytest.raises(ModelError, match=r"are no probabilities, .* put a softmax over all"):
        open_teacher(path, model)
    with pytest.raises(ModelError, match=r"names class 3, and the model has 3 classes"):
        open_teacher(top_k_file(model, path), loaded(3))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read: No such file"),
        (b"no model", "is no ONNX model"),
        (4, r"gives (4,) a sample, the model (3,): averaging needs the same outputs"),
    ],
)
def test_files_that_cannot_teach(tmp_path: Path, content: bytes | int | None, reason: str) -> None:
    path = tmp_path / "t.onnx"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        onnx_file(loaded(content), path)
    with pytest.raises(ModelError) as caught:
        open_teacher(path, loaded())
    assert reason in str(caught.value) and "\n" not in str(caught.value)


def box(answer: Tensor) -> BlackBox:
    return BlackBox("x", "", lambda _: answer)


def test_probabilities_are_averaged_and_not_logits() -> None:
    own, other = torch.tensor([[0.0, 0.0]]), torch.tensor([[100.0, 0.0]])
    panel = Panel([(box(other), 1.0)], 3.0, classification=True)
    found = panel.combine(panel.ask([own], EXAMPLE)).softmax(-1)
    torch.testing.assert_close(found, torch.tensor([[0.625, 0.375]]))


def test_other_outputs_are_averaged_as_numbers() -> None:
    panel = Panel([(box(torch.tensor([[4.0]])), 1.0)], 3.0, classification=False)
    assert panel.combine(panel.ask([torch.tensor([[0.0]])], EXAMPLE)).item() == 1.0


def test_one_teacher_is_itself() -> None:
    own = torch.tensor([[5.0, 1.0]])
    panel = Panel((), 1.0, classification=True)
    assert panel.combine(panel.ask([own], EXAMPLE)) is own


def test_an_original_without_weight_is_no_teacher() -> None:
    one, two = torch.tensor([[5.0, 1.0]]), torch.tensor([[1.0, 5.0]])
    panel = Panel([(box(one), 1.0), (box(two), 1.0)], 0.0, classification=True)
    assert [x is y for x, y in zip(panel.ask([], EXAMPLE), (one, two), strict=True)] == [True] * 2
    average = panel.combine(panel.ask([], EXAMPLE)).softmax(-1)
    torch.testing.assert_close(average, torch.tensor([[0.5, 0.5]]))


def test_classes_at_each_pixel_are_averaged_pixel_by_pixel() -> None:
    own, other = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    panel = Panel([(box(other), 1.0)], 3.0, classification=False, dense=True)
    found = panel.combine(panel.ask([own], EXAMPLE)).softmax(1)
    torch.testing.assert_close(found, 0.75 * own.softmax(1) + 0.25 * other.softmax(1))
