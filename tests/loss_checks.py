"""What every loss on logits is to hold, whatever its formula."""

from __future__ import annotations

from collections.abc import Callable

import torch
from networks import samples
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


def logits(count: int = 4, classes: int = 5, seed: int = 0, spread: float = 2.0) -> Tensor:
    """Return float64 logits that are the same for the same seed."""
    return samples(count, classes, seed=seed).double() * spread


def gradient(loss: Loss, student: Tensor, teacher: Tensor) -> Tensor:
    """Return the gradient to the student; fail if one reaches the teacher."""
    student, teacher = student.clone().requires_grad_(), teacher.clone().requires_grad_()
    loss(student, teacher).backward()
    assert student.grad is not None
    assert teacher.grad is None
    return student.grad


def check_shift_invariance(loss: Loss, classes: int = 5) -> None:
    """Check that constants added to either logits change nothing, and so gradients sum to 0."""
    student, teacher = logits(classes=classes), logits(classes=classes, seed=1)
    shifts = samples(4, 2, seed=2).double() * 20
    moved = loss(student + shifts[:, :1], teacher + shifts[:, 1:])
    torch.testing.assert_close(moved, loss(student, teacher), rtol=1e-9, atol=1e-10)
    sums = gradient(loss, student, teacher).sum(-1)
    torch.testing.assert_close(sums, torch.zeros_like(sums), rtol=0, atol=1e-10)


def check_large_half_precision(loss: Loss, classes: int = 5) -> None:
    """Check that logits of +-60 in 16 bits have a finite float32 loss and finite gradients."""
    for dtype in (torch.float16, torch.bfloat16):
        student = (samples(4, classes).sign() * 60).to(dtype)
        teacher = (samples(4, classes, seed=1).sign() * 60).to(dtype)
        value = loss(student, teacher)
        assert value.dtype == torch.float32 and value.shape == ()
        assert value.isfinite()
        assert gradient(loss, student, teacher).isfinite().all()


def check_gradient(loss: Loss, classes: int = 4) -> None:
    """Check the gradient to the student against finite differences."""
    student = logits(3, classes).requires_grad_()
    teacher = logits(3, classes, seed=1)
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher), (student,))
