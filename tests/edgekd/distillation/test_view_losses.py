"""Losses that look at turned images, or at images with holes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from edgekd.algorithms.label_augmentation import rotations
from edgekd.algorithms.token_mask import TokenMask, patches
from edgekd.distillation.losses import build_term
from edgekd.distillation.term import Answers, Pairing, Side, Term
from edgekd.loss_settings import LossSettings

READ: TypeAdapter[Any] = TypeAdapter(LossSettings)
IMAGE = (3, 8, 8)
STUDENT = Side(5, ((5,),), ((4, 8, 8), (6, 4, 4)))
TEACHER = Side(5, ((5,),), ((4, 8, 8), (8, 4, 4)))
LABELS = torch.tensor([0, 4, -1])
NAMES = ("label-augmentation", "layered", "hierarchical", "masked-autoencoder")
TAUGHT = ("hierarchical", "masked-autoencoder")


def pairing(**changed: Any) -> Pairing:
    return replace(Pairing(STUDENT, TEACHER, 4, IMAGE), **changed)


def term(name: str, pair: Pairing | None = None, **given: Any) -> Term:
    torch.manual_seed(0)
    return build_term(READ.validate_python({"loss": name, **given}), pair or pairing())


def seen(made: Term, images: Tensor, pair: Pairing | None = None) -> Answers:
    """Return what two networks might say of the term's view."""
    assert made.view is not None
    changed, context = made.view.make(images)
    generator = torch.Generator().manual_seed(1)

    def tensors(side: Side) -> tuple[list[Tensor], list[Tensor]]:
        found = [
            torch.randn(len(changed), *shape, generator=generator).requires_grad_()
            for shape in ((5,), *side.features)
        ]
        return found[:1], found[1:]

    pair = pair or pairing()
    own, other = tensors(pair.student), tensors(pair.teacher)
    return Answers(*own, *other, LABELS, images=images, context=context)


@pytest.mark.parametrize("name", NAMES)
def test_the_student_learns_from_the_view_and_the_teacher_does_not(name: str) -> None:
    made = term(name)
    assert made.view is not None and made.view.teacher == (name in TAUGHT)
    answers = seen(made, torch.randn(3, *IMAGE))
    found = made.compare(answers)
    found.backward()

    assert found.isfinite()
    own = [x.grad for x in (*answers.outputs, *answers.features) if x.grad is not None]
    assert own and sum(grad.abs().sum() for grad in own) > 0
    assert all(x.grad is None for x in answers.teacher_outputs)
    assert made.trained is not None
    assert all(weight.grad is not None for weight in made.trained.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_no_gradient_reaches_the_teachers_features(name: str) -> None:
    answers = seen(made := term(name), torch.randn(3, *IMAGE))
    kept = [x.detach().clone() for x in answers.teacher_features]
    made.compare(replace(answers, teacher_features=kept)).backward()
    assert all(x.grad is None for x in kept)


@pytest.mark.parametrize("name", ["label-augmentation", "layered", "hierarchical"])
def test_images_are_turned_by_quarters(name: str) -> None:
    view = term(name).view
    assert view is not None
    images = torch.randn(2, *IMAGE)
    assert torch.equal(view.make(images)[0], rotations(images))


def test_the_teachers_branches_learn_from_labels_alone() -> None:
    made = term("hierarchical")
    answers = seen(made, torch.randn(3, *IMAGE))
    made.compare(replace(answers, labels=torch.full((3,), -1))).backward()
    assert made.trained is not None
    _, others = made.trained
    assert all((w.grad is None) or (w.grad == 0).all() for w in others.parameters())


class TestMaskedAutoencoder:
    def test_three_quarters_of_the_patches_are_painted_over(self) -> None:
        images = torch.rand(5, *IMAGE) + 1
        made = term("masked-autoencoder")
        assert made.view is not None
        changed, mask = made.view.make(images)
        assert isinstance(mask, TokenMask)
        hidden = (patches(changed, 2) == 0).all(-1)
        assert torch.equal(hidden, mask.masked) and (hidden.sum(1) == 12).all()
        assert torch.equal(changed[changed != 0], images[changed != 0])

    def test_only_what_is_seen_counts_of_the_features(self) -> None:
        made = term("masked-autoencoder")
        answers = seen(made, torch.randn(3, *IMAGE))
        mask = answers.context
        assert isinstance(mask, TokenMask)
        changed = [x.detach().clone() for x in answers.features]
        changed[-1].flatten(2).masked_fill_(mask.masked[:, None], 9.0)
        assert torch.equal(made.compare(answers), made.compare(replace(answers, features=changed)))

    def test_tokens_behind_a_class_token(self) -> None:
        tokens, teacher = Side(5, ((5,),), ((17, 6),)), Side(5, ((5,),), ((17, 8),))
        pair = pairing(student=tokens, teacher=teacher)
        made = term("masked-autoencoder", pair)
        assert made.compare(seen(made, torch.randn(3, *IMAGE), pair)).isfinite()

    def test_masks_follow_torchs_generator(self) -> None:
        made = term("masked-autoencoder")
        assert made.view is not None

        def mask() -> Any:
            torch.manual_seed(3)
            assert made.view is not None
            return made.view.make(torch.zeros(4, *IMAGE))[1]

        assert torch.equal(mask().masked, mask().masked)


@pytest.mark.parametrize(
    ("name", "changed", "reason"),
    [
        ("label-augmentation", {"image": None}, "the model's input is not one image"),
        ("layered", {"image": (3, 8, 6)}, "those of 8 x 6 are not square"),
        ("hierarchical", {"image": (1, 4, 6)}, "those of 4 x 6 are not square"),
        ("masked-autoencoder", {"image": None}, "the model's input is not one image"),
        ("masked-autoencoder", {"image": (3, 9, 9)}, "do not split into 4 x 4 patches"),
        (
            "masked-autoencoder",
            {"teacher": Side(5, ((5,),), ((8, 2, 2),))},
            "there are 4 x 4 in the student and 2 x 2 in the teacher; name 'layers'",
        ),
        (
            "masked-autoencoder",
            {"student": Side(5, ((5,),), ((6,),))},
            "needs square maps, or tokens that fill a square",
        ),
    ],
)
def test_wrong_pairings_are_refused(name: str, changed: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        term(name, pairing(**changed))


def test_heads_that_cannot_share_a_width() -> None:
    with pytest.raises(ValueError, match="'heads: 3' cannot share a 'width' of 128"):
        term("masked-autoencoder", heads=3)
