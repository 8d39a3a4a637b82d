"""Losses on transformed images, and those that look at the teacher first."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from edgekd.algorithms.class_means import class_means
from edgekd.algorithms.logit_discriminator import discriminator_loss
from edgekd.distillation.losses import build_term
from edgekd.distillation.term import Pairing, Side, Term
from edgekd.loss_settings import LossSettings

READ: TypeAdapter[Any] = TypeAdapter(LossSettings)
IMAGE = (3, 8, 8)
OWN = Side(5, ((5,),), ((4, 4, 4), (6, 2, 2)))
TEACHER = Side(5, ((5,),), ((4, 4, 4), (12, 4, 4)))
GIVEN: dict[str, dict[str, Any]] = {"masked-autoencoder": {"patch": 2, "width": 8}}
VIEWS = ("label-augmentation", "layered", "hierarchical", "masked-autoencoder")
LABELS = torch.tensor([0, 1, 2, -1])


def pairing(inputs: tuple[tuple[int, ...], ...] = (IMAGE,), *, itself: bool = False) -> Pairing:
    return Pairing(OWN, TEACHER, 4, inputs, itself)


def term(name: str, pair: Pairing | None = None, **given: Any) -> Term:
    settings = READ.validate_python({"loss": name, **GIVEN.get(name, {}), **given})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_term(settings, pair or pairing())


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def answers(side: Side, count: int, seed: int) -> tuple[list[Tensor], list[Tensor]]:
    features = [random(count, *shape, seed=seed + i) for i, shape in enumerate(side.features)]
    return [random(count, 5, seed=seed + 9)], features


@pytest.mark.parametrize("name", VIEWS)
def test_student_and_what_is_beside_it_learn_from_a_view(name: str) -> None:
    made, images = term(name), random(4, *IMAGE)
    assert made.view is not None and made.trained is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        viewed = made.view.of(images)
    count = len(viewed.images)
    student, teacher = answers(OWN, count, 1), answers(TEACHER, count, 5)
    for tensor in (*student[0], *student[1], *teacher[0], *teacher[1]):
        tensor.requires_grad_()

    learnt = [*student[0], *student[1], *made.trained.parameters()]
    optimizer, losses = torch.optim.Adam(learnt, 1e-2), []
    seen = teacher if made.view.teacher else ([], [])
    for _ in range(12):
        loss = made(*student, *seen, LABELS, None, images, viewed.mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert student[1][-1].grad is not None and student[1][-1].grad.abs().sum() > 0
    assert all(x.grad is None for x in (*teacher[0], *teacher[1]))
    assert all(weight.grad is not None for weight in made.trained.parameters())


def test_turned_images_are_run_once_and_masks_when_they_are_equal() -> None:
    first, second = term("layered"), term("label-augmentation")
    assert first.view is not None and second.view is not None
    assert first.view.of == second.view.of
    same, other = (term("masked-autoencoder", ratio=r) for r in (0.75, 0.5))
    assert same.view == term("masked-autoencoder").view != other.view


@pytest.mark.parametrize("name", VIEWS)
def test_anything_but_one_image_is_refused(name: str) -> None:
    for inputs in ((), ((7,),), (IMAGE, IMAGE)):
        with pytest.raises(ValueError, match="it transforms images, and the model does not have"):
            term(name, pairing(inputs))


@pytest.mark.parametrize("name", VIEWS[:3])
def test_only_square_images_are_turned(name: str) -> None:
    with pytest.raises(ValueError, match="those of 8 x 6 are not square"):
        term(name, pairing(((3, 8, 6),)))


@pytest.mark.parametrize("patch", [3, 8])
def test_patches_have_to_fill_the_image(patch: int) -> None:
    with pytest.raises(ValueError, match=f"'patch: {patch}' does not split images of 8 x 8"):
        term("masked-autoencoder", patch=patch)


def test_the_discriminator_and_the_student_learn_apart() -> None:
    plain, judged = term("meal"), term("meal", discriminator=True)
    student, teacher = random(4, 5).requires_grad_(), random(4, 5, seed=1)
    found = judged([student], [], [teacher], [], LABELS)
    assert found > plain([student], [], [teacher], [], LABELS)
    assert judged.trained is not None
    weights = dict(judged.trained.named_parameters())
    got = torch.autograd.grad(found, [student, *weights.values()], retain_graph=True)
    assert all(gradient.abs().sum() > 0 for gradient in got[-2:])
    own = discriminator_loss(judged.trained, student, teacher)
    alone = torch.autograd.grad(own, list(weights.values()))
    for ours, theirs in zip(got[1:], alone, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_subclasses_follow_how_the_teachers_features_vary_within_a_class() -> None:
    made, labels = term("subclasses", subclasses=2), torch.arange(100) % 5
    embeddings = random(100, 12)
    logits = embeddings @ random(12, 5, seed=3)
    assert made.prepare is not None and made.trained is not None
    made.prepare(logits, labels, [random(1, 1), embeddings])
    directions = made.trained.get_buffer("directions")
    assert directions.abs().sum() > 0
    # What the outputs already use of an embedding is in no direction.
    seen = torch.einsum("dk,cds->cks", random(12, 5, seed=3), directions)
    assert seen.abs().max() < 1e-4 * directions.abs().max() * 12
    with pytest.raises(ValueError, match="too few for 2 parts"):
        made.prepare(logits[:5], labels[:5], [random(1, 1), embeddings[:5]])


def test_an_embedding_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="of 12 channels leaves 7 directions beside its 5 classes"):
        term("subclasses", subclasses=8)


def test_mcmi_spreads_outputs_around_the_class_means() -> None:
    made = term("mcmi", pairing(itself=True), information=0.5)
    logits, labels = random(20, 5), torch.arange(20) % 5
    assert made.prepare is not None and made.trained is not None and made.departs
    made.prepare(logits, labels, [])
    torch.testing.assert_close(made.trained.get_buffer("means"), class_means(logits, labels))
    student = logits.clone().requires_grad_()
    found = made([student], [], [], [], labels)
    found.backward()
    assert student.grad is not None and student.grad.abs().sum() > 0
    plain = term("mcmi", pairing(itself=True), information=0.0)([student], [], [], [], labels)
    assert found < plain


def test_mcmi_teaches_no_student() -> None:
    with pytest.raises(ValueError, match="teaches no student; leave 'student' out"):
        term("mcmi")
