"""Losses by name: each is built from its settings, and wrong pairings are refused."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from edgekd.algorithms.kd_loss import kl_loss, relative_mse_loss
from edgekd.algorithms.several_teachers import ensemble_logits
from edgekd.algorithms.taid import taid_loss
from edgekd.distillation.losses import ALONE, PAIRED, build_term, check_needs
from edgekd.distillation.term import Pairing, Side, Term
from edgekd.loss_settings import LossSettings

SETTINGS = get_args(get_args(LossSettings)[0])
NAMES = sorted(get_args(kind.model_fields["loss"].annotation)[0] for kind in SETTINGS)
READ: TypeAdapter[Any] = TypeAdapter(LossSettings)
LOGITS = Side(5, ((5,),))


def pairing(side: Side = LOGITS, steps: int = 4) -> Pairing:
    return Pairing(side, side, steps)


def term(name: str, pair: Pairing | None = None, **given: Any) -> Term:
    if name == "top-k-kl":
        given = {"top_k": 3, **given}
    return build_term(READ.validate_python({"loss": name, **given}), pair or pairing())


def logits(seed: int) -> Tensor:
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(seed)) * 3


def value(made: Term, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    return made([student], [], [teacher], [], labels)


LABELS = torch.tensor([0, 1, 2, 3, 4, -1])


def test_every_loss_that_can_be_named_can_be_built() -> None:
    assert set(ALONE) | set(PAIRED) == set(SETTINGS)
    assert not set(ALONE) & set(PAIRED)


@pytest.mark.parametrize("name", NAMES)
def test_the_student_learns_and_the_teacher_does_not(name: str) -> None:
    made = term(name)
    student, teacher = logits(0).requires_grad_(), logits(1).requires_grad_()

    value(made, student, teacher, LABELS).backward()

    assert student.grad is not None and student.grad.isfinite().all()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


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
    kind = type(READ.validate_python({"loss": name}))
    changed = {key: number for key, number in numbers.items() if key in kind.model_fields}
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
