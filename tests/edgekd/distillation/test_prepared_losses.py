"""Losses that take something from the teacher before the training, and MEAL's discriminator."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from edgekd.algorithms.class_means import class_means
from edgekd.algorithms.logit_discriminator import discriminated_loss, discriminator_loss
from edgekd.distillation.losses import build_term
from edgekd.distillation.term import Pairing, Side, Term
from edgekd.loss_settings import LossSettings

READ: TypeAdapter[Any] = TypeAdapter(LossSettings)
OWN = Side(5, ((5,),), ((4, 4, 4), (6, 2, 2)))
TEACHER = Side(5, ((5,),), ((4, 4, 4), (12, 4, 4)))
LABELS = torch.tensor([0, 1, 2, -1])


def pairing(*, itself: bool = False) -> Pairing:
    return Pairing(OWN, TEACHER, 4, itself=itself)


def term(name: str, pair: Pairing | None = None, **given: Any) -> Term:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_term(READ.validate_python({"loss": name, **given}), pair or pairing())


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


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
    mine = plain([student], [], [teacher], [], LABELS)
    mine = mine + discriminated_loss(judged.trained, student)
    torch.testing.assert_close(got[0], torch.autograd.grad(mine, student)[0])


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


def test_sharper_parts_are_other_targets() -> None:
    embeddings, labels = random(100, 12), torch.arange(100) % 5
    own, other = random(4, 6, 2, 2), random(4, 12, 4, 4)
    found = []
    for sharpness in (1.0, 3.0):
        made = term("subclasses", subclasses=2, sharpness=sharpness)
        assert made.prepare is not None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # of the rotation
            made.prepare(embeddings @ random(12, 5, seed=3), labels, [embeddings])
        found.append(made([random(4, 5)], [own], [random(4, 5, seed=1)], [other], LABELS))
    assert not torch.equal(*found)


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
