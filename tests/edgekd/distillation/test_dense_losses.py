"""Losses for outputs at every place of an image: what they compare, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from edgekd.algorithms.dense_kl import dense_kl
from edgekd.distillation.losses import build_term, check_needs, places_of
from edgekd.distillation.term import Pairing, Side, Term
from edgekd.graph.program import to_module
from edgekd.loss_settings import LossSettings
from edgekd.model.trace import export_batched

READ: TypeAdapter[Any] = TypeAdapter(LossSettings)
PIXELS = (4, 8, 8)
STUDENT = Side(0, (PIXELS,), ((4, 8, 8), (6, 4, 4), (8, 2, 2)), pixel_classes=4)
TEACHER = Side(0, (PIXELS,), ((6, 8, 8), (6, 8, 8), (12, 4, 4)), pixel_classes=4)
TOKENS = Side(0, (PIXELS,), ((16, 5), (4, 7)), pixel_classes=4)
MORE = Side(0, (PIXELS,), ((9, 5), (4, 7)), pixel_classes=4)
WIDER = Side(0, (PIXELS,), ((16, 9), (11, 2, 2)), pixel_classes=4)


def term(name: str, student: Side = STUDENT, teacher: Side = TEACHER, **given: Any) -> Term:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        settings = READ.validate_python({"loss": name, **given})
        return build_term(settings, Pairing(student, teacher, 4))


def tensors(side: Side, seed: int, count: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = (*side.outputs, *side.features)
    return [torch.randn(count, *shape, generator=generator) for shape in shapes]


LABELS = torch.randint(0, 4, (3, 8, 8), generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    ("name", "student", "teacher"),
    [
        ("dense-kl", STUDENT, TEACHER),
        ("context", STUDENT, TEACHER),
        ("fusion", STUDENT, TEACHER),
        ("acam", STUDENT, TEACHER),
        ("patch-embedding", TOKENS, WIDER),
    ],
)
def test_the_student_learns_and_the_teacher_does_not(
    name: str, student: Side, teacher: Side, count: int
) -> None:
    made = term(name, student, teacher)
    own, other = tensors(student, 0, count), tensors(teacher, 1, count)
    for tensor in (*own, *other):
        tensor.requires_grad_()
    made(own[:1], own[1:], other[:1], other[1:], LABELS[:count]).backward()
    used = own[:1] if name == "dense-kl" else own[1:]
    assert all(x.grad is not None and x.grad.abs().sum() > 0 for x in used)
    assert all(x.grad is None for x in other)
    trained = [] if made.trained is None else list(made.trained.parameters())
    assert all(weight.grad is not None for weight in trained)


def test_pixels_without_a_label_can_be_left_out() -> None:
    own, other = tensors(STUDENT, 0)[:1], tensors(TEACHER, 1)[:1]
    labels = LABELS.clone()
    labels[:, :4], labels[:, 4] = 255, -1
    found = term("dense-kl", labelled_only=True, temperature=2.0)(own, [], other, [], labels)
    expected = dense_kl(own[0][:, :, 5:], other[0][:, :, 5:], temperature=2.0)
    torch.testing.assert_close(found, expected)
    whole = term("dense-kl", temperature=2.0)(own, [], other, [], labels)
    torch.testing.assert_close(whole, dense_kl(own[0], other[0], temperature=2.0))


def test_equal_maps_and_embeddings_cost_nothing_behind_no_projector() -> None:
    for name in ("context", "acam"):
        made = term(name, STUDENT, STUDENT, **({"diversity": 0.0} if name == "acam" else {}))
        same = tensors(STUDENT, 0)
        assert made(same[:1], same[1:], same[:1], same[1:], LABELS).item() == 0, name


def test_there_is_a_mask_for_each_class_of_the_pixels() -> None:
    def masks(side: Side, **given: Any) -> int:
        made = term("acam", side, side, **given)
        assert made.trained is not None
        found = dict(made.trained.named_parameters())["1.0.channel_units"]
        return len(found)

    assert masks(STUDENT) == 4
    assert masks(Side(0, (PIXELS,), STUDENT.features)) == 6
    assert masks(STUDENT, masks=2) == 2


def test_weights_of_stages() -> None:
    own, other = tensors(TOKENS, 0)[1:], tensors(WIDER, 1)[1:]
    outputs = [torch.zeros(3, *PIXELS)]

    def value(*weights: float) -> Tensor:
        given = {"stage_weights": weights} if weights else {}
        return term("patch-embedding", TOKENS, WIDER, **given)(outputs, own, outputs, other, None)

    torch.testing.assert_close(value(), value(0.5, 1.0))
    torch.testing.assert_close(value(2.0, 3.0), value(2.0, 0.0) + value(0.0, 3.0))


@pytest.mark.parametrize(
    ("name", "sides", "given", "reason"),
    [
        ("fusion", (Side(0, (PIXELS,), ((4, 8, 8),)),) * 2, {}, "fusion needs two stages or more"),
        ("fusion", (Side(0, (PIXELS,), ((4, 8, 8), (4, 1, 1))),) * 2, {}, "a map of one place"),
        ("context", (Side(0, (PIXELS,), ((7,),)),) * 2, {}, "it needs maps"),
        ("acam", (Side(0, (PIXELS,), ((1, 4, 4),)),) * 2, {}, "two channels or more"),
        ("patch-embedding", (TOKENS, MORE), {}, "as many patches in both"),
        ("patch-embedding", (TOKENS, WIDER), {"stage_weights": [1.0]}, "2 stages have 1 weights"),
        ("patch-embedding", (Side(0, (PIXELS,), ((7,),)),) * 2, {}, "it needs tokens, or maps"),
    ],
)
def test_what_a_builder_refuses(
    name: str, sides: tuple[Side, Side], given: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        term(name, *sides, **given)


UNKNOWN, CLASSES = Side(0, (PIXELS,), STUDENT.features), Side(5, ((5,),), STUDENT.features)


@pytest.mark.parametrize(
    ("name", "side", "reason"),
    [
        (
            "dense-kl",
            UNKNOWN,
            r"it needs class logits at each pixel, \(C, H, W\) a sample, with in",
        ),
        ("dense-kl", CLASSES, "it is for outputs at every place of an image"),
        ("kl", STUDENT, "here is one at each pixel; use 'dense-kl'"),
        ("one-for-all", STUDENT, "here is one at each pixel; use 'dense-kl'"),
        ("acam", CLASSES, "it is for outputs at every place of an image"),
    ],
)
def test_what_outputs_of_another_kind_are_told(name: str, side: Side, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_needs(term(name, side, side), Pairing(side, side, 4), teachers=1)


def test_maps_without_labels_are_enough_for_losses_in_between() -> None:
    for name in ("context", "fusion", "acam"):
        check_needs(term(name, UNKNOWN, UNKNOWN), Pairing(UNKNOWN, UNKNOWN, 4), teachers=1)


def test_patch_embeddings_have_to_be_named() -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 4, 4), torch.nn.ReLU()).eval()
    module = to_module(export_batched(net, (torch.zeros(2, 3, 8, 8),)))
    options = READ.validate_python({"loss": "patch-embedding"})
    with pytest.raises(ValueError, match="name those modules under 'layers'"):
        places_of(options, module, module)
    named = {"loss": "patch-embedding", "layers": [{"student": "0", "teacher": "0"}]}
    ((own, other),) = places_of(READ.validate_python(named), module, module)
    assert own.shape == other.shape == (4, 2, 2)
