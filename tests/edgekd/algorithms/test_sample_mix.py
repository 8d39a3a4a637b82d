import pytest
import torch
import torch.nn.functional as F
from loss_checks import check_gradient, check_large_half_precision, check_shift_invariance, logits

from edgekd.algorithms.class_means import class_means
from edgekd.algorithms.kd_loss import kl_loss
from edgekd.algorithms.sample_mix import SampleMix, label_trust, sample_mix_loss
from edgekd.algorithms.unrolled_step import unrolled_step

LABELS = torch.tensor([1, 0, 3, 2])


def test_the_ends_are_distillation_and_labels() -> None:
    student, teacher = logits(), logits(seed=1)
    whole = sample_mix_loss(student, teacher, labels=LABELS, share=torch.ones(4))
    assert whole.item() == pytest.approx(kl_loss(student, teacher, 1.5).item())
    nothing = sample_mix_loss(student, teacher, labels=LABELS, share=torch.zeros(4))
    assert nothing.item() == pytest.approx(F.cross_entropy(student, LABELS).item())


def test_every_sample_has_its_own_share_and_one_without_a_label_all() -> None:
    student, teacher = logits(2), logits(2, seed=1)
    labels = torch.tensor([1, -1])
    found = sample_mix_loss(student, teacher, labels=labels, share=torch.tensor([0.25, 0.25]))
    divergences = [kl_loss(student[[i]], teacher[[i]], 1.5).item() for i in range(2)]
    wrong = F.cross_entropy(student[:1], labels[:1]).item()
    assert found.item() == pytest.approx(
        (0.25 * divergences[0] + 0.75 * wrong + divergences[1]) / 2
    )


def test_trust_is_the_teachers_probability_of_the_label() -> None:
    teacher = torch.tensor([[3.0, 1], [3.0, 1], [3.0, 1]]).log()
    found = label_trust(teacher, torch.tensor([0, 1, -1]))
    assert found.tolist() == pytest.approx([0.75, 0.25, 1])


def test_the_network_gives_shares_and_nothing_but_itself_a_gradient() -> None:
    student, teacher = logits().requires_grad_(), logits(seed=1).requires_grad_()
    mix, means = SampleMix(5).double(), class_means(teacher, LABELS)
    share = mix(student, teacher, torch.tensor([1, 0, -1, 2]), means)
    assert share.shape == (4,) and ((share > 0) & (share < 1)).all()
    share.sum().backward()
    assert student.grad is None and teacher.grad is None
    assert all(weight.grad is not None for weight in mix.parameters())


def test_the_network_learns_through_a_step_of_the_student() -> None:
    """A teacher that is wrong on purpose is to lose weight when held-out samples are looked at."""
    torch.manual_seed(0)
    inputs, labels = logits(32, 3), (logits(32, 3) @ torch.eye(3).double()).argmax(1)
    teacher = F.one_hot((labels + 1) % 3, 3).double() * 4
    weights = {"weight": torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)}
    mix, means = SampleMix(3).double(), class_means(teacher, labels)
    optimizer = torch.optim.Adam(mix.parameters(), lr=0.05)
    shares = []
    for _ in range(15):
        student = inputs @ weights["weight"].T
        share = mix(student, teacher, labels, means)
        shares.append(share.mean().item())
        loss = sample_mix_loss(student, teacher, labels=labels, share=share)
        after = unrolled_step(weights, loss, 0.5)
        optimizer.zero_grad()
        F.cross_entropy(inputs @ after["weight"].T, labels).backward()
        assert any(weight.grad.abs().max() > 0 for weight in mix.parameters())
        optimizer.step()
    assert shares[-1] < 0.7 * shares[0]


def test_what_every_loss_is_to_hold() -> None:
    def loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        count = len(student)
        share = torch.full((count,), 0.3)
        return sample_mix_loss(student, teacher, labels=LABELS[:count], share=share)

    check_shift_invariance(loss)
    check_large_half_precision(loss)
    check_gradient(loss)
