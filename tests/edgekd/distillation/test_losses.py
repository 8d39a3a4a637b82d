"""Losses by name: each is built from its settings, and wrong pairings are refused."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from edgekd.algorithms.generic_distillation import generic_loss
from edgekd.algorithms.kd_loss import kl_loss, relative_mse_loss
from edgekd.algorithms.several_teachers import ensemble_logits
from edgekd.algorithms.taid import taid_loss
from edgekd.distillation.losses import ALONE, PAIRED, PLACES, build_term, check_needs
from edgekd.distillation.term import Pairing, Side, Term
from edgekd.loss_settings import LossSettings

SETTINGS = get_args(get_args(LossSettings)[0])
# Those for other outputs and of other images have tests of their own; minilm needs attention.
APART = {"minilm", "two-teacher", "bins", "dense-kl", "fusion", "patch-embedding"}
APART |= {"mcmi"}  # no student
APART |= {"label-augmentation", "layered", "hierarchical", "masked-autoencoder"}  # other images
NAMES = sorted(
    name
    for kind in SETTINGS
    if (name := get_args(kind.model_fields["loss"].annotation)[0]) not in APART
)
READ: TypeAdapter[Any] = TypeAdapter(LossSettings)


def kind_of(name: str) -> type[Any]:
    return type(READ.validate_python({"loss": name}))


LOGITS = Side(5, ((5,),), ((4, 4, 4), (6, 2, 2)))
TEACHER = Side(5, ((5,),), ((4, 4, 4), (8, 4, 4)))
QKV = Side(5, ((5,),), ((2, 7, 6), (2, 6, 7), (2, 7, 6)))
WIDER = Side(5, ((5,),), ((4, 7, 6), (4, 6, 7), (4, 7, 6)))


def pairing(side: Side = LOGITS, steps: int = 4) -> Pairing:
    return Pairing(side, TEACHER, steps)


def term(name: str, pair: Pairing | None = None, **given: Any) -> Term:
    """Return a loss with the same projectors every time."""
    if name == "top-k-kl":
        given = {"top_k": 3, **given}
    if name == "subclasses":
        given = {"subclasses": 2, **given}
    if name == "first":
        given = {"normalize": "softmax", **given}  # the other form has no temperature
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_term(READ.validate_python({"loss": name, **given}), pair or pairing())


def logits(seed: int) -> Tensor:
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(seed)) * 3


def features(side: Side, seed: int, batch: int = 6) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, *shape, generator=generator) for shape in side.features]


def value(made: Term, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return made([student], features(LOGITS, 2), [teacher], features(TEACHER, 3), labels)


LABELS = torch.tensor([0, 1, 2, 3, 4, -1])


def test_every_loss_that_can_be_named_can_be_built() -> None:
    assert set(ALONE) | set(PAIRED) == set(SETTINGS)
    assert not set(ALONE) & set(PAIRED)


@pytest.mark.parametrize("name", NAMES)
def test_the_student_learns_and_the_teacher_does_not(name: str) -> None:
    made = term(name)
    student = [logits(0), *features(LOGITS, 2)]
    teacher = [logits(1), *features(TEACHER, 3)]
    for tensor in (*student, *teacher):
        tensor.requires_grad_()

    made(student[:1], student[1:], teacher[:1], teacher[1:], LABELS).backward()

    found = [tensor.grad for tensor in student if tensor.grad is not None]
    assert found and all(grad.isfinite().all() for grad in found)
    assert sum(grad.abs().sum() for grad in found) > 0
    assert all(tensor.grad is None for tensor in teacher)
    trained = [] if made.trained is None else list(made.trained.parameters())
    assert all(weight.grad is not None for weight in trained), "what is trained beside learns too"


@pytest.mark.parametrize("name", [name for name in NAMES if kind_of(name) in PLACES])
def test_a_batch_of_one_sample_ends_no_training(name: str) -> None:
    made, one = term(name), torch.zeros(1, 5, requires_grad=True)
    student = [x.requires_grad_() for x in features(LOGITS, 2, 1)]
    found = made([one], student, [logits(1)[:1]], features(TEACHER, 3, 1), LABELS[:1])
    found.backward()
    assert found.isfinite()


def test_settings_reach_the_loss() -> None:
    student, teacher = logits(0), logits(1)
    assert torch.equal(
        value(term("kl", temperature=2.0), student, teacher, LABELS), kl_loss(student, teacher, 2.0)
    )
    assert torch.equal(
        value(term("mse"), student, teacher, LABELS), relative_mse_loss(student, teacher)
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_setting_changes_the_value(name: str) -> None:
    numbers = {"temperature": 3.0, "label_share": 0.1, "top_k": 2, "beta": 0.1}
    numbers |= {
        "middle": 0.9,
        "diversity": 0.1,
        "power": 1.0,
        "angle": 1.0,
        "alpha": 1.0,
        "direct": 1.0,
        "exponent": 2.0,
    }
    changed = {k: number for k, number in numbers.items() if k in kind_of(name).model_fields}
    for key, number in changed.items():
        default, other = term(name), term(name, **{key: number})
        data = (logits(0), logits(1), LABELS)
        assert not torch.equal(value(default, *data), value(other, *data)), key


def test_the_target_of_taid_moves_with_the_steps() -> None:
    made = term("taid", pairing(steps=2), start=0.5, end=1.0)
    student, teacher = logits(0).requires_grad_(), logits(1)
    first = value(made, student, teacher, LABELS)
    assert torch.equal(first, taid_loss(student, teacher, mix=0.5))
    assert made.after_step is not None and made.trained is not None
    made.after_step()
    made.after_step()  # without a loss in between nothing moves
    assert made.trained.state_dict()["updates"] == 1
    value(made, student, teacher, LABELS)
    made.after_step()
    last = value(made, student, teacher, LABELS)
    assert torch.equal(last, taid_loss(student, teacher, mix=1.0))
    with torch.no_grad():
        value(made, student, teacher, LABELS)
    assert made.trained.state_dict()["updates"] == 2


def test_meal_compares_with_the_average_of_the_teachers() -> None:
    student, teachers = logits(0), [logits(1), logits(2)]
    average = ensemble_logits(teachers)
    expected = -(average.exp() * student.log_softmax(-1)).sum(-1).mean()
    torch.testing.assert_close(value(term("meal"), student, average, LABELS), expected)


NO_CLASSES, TWO_CLASSES = Side(0, ((5,),)), Side(2, ((2,),))


@pytest.mark.parametrize(
    ("name", "side", "reason"),
    [
        ("kl", NO_CLASSES, "class logits with integer labels"),
        ("plackett-luce", NO_CLASSES, "class logits with integer labels"),
        ("standardized-kl", TWO_CLASSES, "it needs 3 classes or more, since 2 standardised"),
        ("meal", LOGITS, "it averages several teachers; name others under 'teachers'"),
    ],
)
def test_wrong_pairings_are_refused_with_the_reason(name: str, side: Side, reason: str) -> None:
    pair = pairing(side)
    with pytest.raises(ValueError, match=reason):
        check_needs(term(name, pair), pair, teachers=1)


def test_what_a_builder_itself_refuses() -> None:
    with pytest.raises(ValueError, match=r"'top_k: 5' leaves out none of the model's 5 classes"):
        term("top-k-kl", top_k=5)
    with pytest.raises(ValueError, match="an output of one number has no direction"):
        term("cosine", pairing(Side(0, ((1,),))))


TOKENS, VECTOR = Side(5, ((5,),), ((17, 6),)), Side(5, ((5,),), ((6,),))
MAP_TEACHER = Side(5, ((5,),), ((8, 4, 4),))
ON_MAPS = ("attention-transfer", "channel-wise", "hint", "scale-kd", "squarehead", "token-graph")


@pytest.mark.parametrize("name", [name for name in NAMES if kind_of(name) in PLACES])
def test_tokens_of_a_square_are_compared_with_a_map(name: str) -> None:
    pair = Pairing(TOKENS, MAP_TEACHER, 4)
    made, student = term(name, pair), [x.requires_grad_() for x in features(TOKENS, 2)]
    others = features(MAP_TEACHER, 3)
    made([logits(0).requires_grad_()], student, [logits(1)], others, LABELS).backward()
    grad = student[0].grad
    assert grad is not None and grad.abs().sum() > 0


@pytest.mark.parametrize("name", ON_MAPS)
def test_a_vector_is_not_compared_with_a_map(name: str) -> None:
    with pytest.raises(ValueError, match=r"it needs maps, or tokens that fill a square"):
        term(name, Pairing(VECTOR, MAP_TEACHER, 4))


def test_heads_that_cannot_share_the_teachers_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="3 heads cannot share 8 channels"):
        term("scale-kd", heads=3)


def test_equal_features_cost_nothing_without_a_projector() -> None:
    side = Side(5, ((5,),), ((4, 4, 4), (8, 2, 2)))
    pair, same = Pairing(side, side, 4), features(side, 0)
    for name in ("hint", "squarehead", "attention-transfer", "relational", "channel-wise"):
        made = term(name, pair)
        assert not list(made.trained.parameters() if made.trained is not None else ())
        found = made([logits(0)], same, [logits(0)], same, LABELS)
        assert found.abs() < 1e-5, name


def test_relations_of_attention_are_compared_whatever_the_numbers_of_heads() -> None:
    made = term("minilm", Pairing(QKV, WIDER, 4), heads=3)
    student = [x.requires_grad_() for x in features(QKV, 0)]
    found = made([logits(0)], student, [logits(1)], features(WIDER, 1), LABELS)
    found.backward()
    assert found > 0 and all(x.grad is not None and x.grad.abs().sum() > 0 for x in student)
    same = made([logits(0)], features(QKV, 0), [logits(1)], features(QKV, 0), LABELS)
    assert same.abs() < 1e-6


def test_each_token_is_predicted_from_the_one_at_its_place() -> None:
    made = term("generic")
    own, other = torch.randn(6, 6, 2, 2), torch.randn(6, 8, 2, 2)
    found = made([logits(0)], [own], [logits(1)], [other], LABELS)
    assert made.trained is not None
    mine, theirs = (x.flatten(2).transpose(1, 2) for x in (own, other))
    torch.testing.assert_close(found, generic_loss(made.trained(mine), theirs))


def test_padding_does_not_count_in_relations() -> None:
    made, valid = term("minilm", Pairing(QKV, QKV, 4), heads=3), torch.ones(6, 7).bool()
    valid[:, 5:] = False
    student, teacher = features(QKV, 0), features(QKV, 1)
    spoiled = [x.clone() for x in student]
    for index, axis in enumerate((2, 3, 2)):
        spoiled[index].narrow(axis, 5, 2).fill_(9.0)
    values = [
        made([logits(0)], own, [logits(1)], teacher, LABELS, valid) for own in (student, spoiled)
    ]
    torch.testing.assert_close(*values)


@pytest.mark.parametrize(
    ("other", "heads", "reason"),
    [(WIDER, 5, "a width of 12 does not split into 5 heads"), (None, 3, "as many tokens in both")],
)
def test_attention_that_cannot_be_compared(other: Side | None, heads: int, reason: str) -> None:
    shorter = Side(5, ((5,),), ((2, 5, 6), (2, 6, 5), (2, 5, 6)))
    with pytest.raises(ValueError, match=reason):
        term("minilm", Pairing(QKV, other or shorter, 4), heads=heads)
