"""Distillation towards a target that moves from the student itself to the teacher."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgekd.algorithms.cross_entropy import log_probabilities, matched

NEEDS = frozenset({"classes"})


def taid_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    mix: float | Tensor,
    valid: Tensor | None = None,
) -> Tensor:
    """Return the cross-entropy with ``softmax((1 - mix) s + mix t)``, mean over valid samples.

    Needs class logits. s inside the target is a constant, so the gradient at mix 0 is 0; at mix 1
    it is that of the cross-entropy with the teacher. There is no temperature and no T^2.

    Args:
        student_logits: ``(..., C)``: a sample or a token a row.
        teacher_logits: the same shape; no gradient flows into them.
        mix: in [0, 1], ``TaidSchedule.mix``.
        valid: which rows count, bool ``(...)``; None for all.

    Source: Shing et al., "TAID: Temporally Adaptive Interpolated Distillation for Efficient
    Knowledge Transfer in Language Models", ICLR 2025, arXiv 2501.16937, section 3. The weight is
    1, without a label loss.
    """
    student, teacher = matched(student_logits, teacher_logits)
    target = torch.lerp(student.detach(), teacher, _scalar(mix, teacher)).softmax(-1)
    each = -(target * log_probabilities(student)).sum(-1)
    if valid is None:
        return each.mean()
    return each.masked_fill(~valid, 0.0).sum() / valid.sum().clamp_min(1)


def _scalar(mix: float | Tensor, like: Tensor) -> Tensor:
    return torch.as_tensor(mix, dtype=like.dtype, device=like.device)


class TaidSchedule(nn.Module):
    """How far the target has moved: faster while the loss falls, never slower than a line.

    With every ``update``: ``change = (last - loss) / last``,
    ``trend = momentum * trend + (1 - momentum) * change``, and ``mix`` becomes
    ``mix + rate * sigmoid(trend) * (1 - mix)``, but at least
    ``start + (end - start) * updates / total_steps`` and at most ``end``. It never falls. All
    state is in buffers, so that checkpoints keep it.

    Args:
        total_steps: optimizer steps of the training, 1 and up.
        start: first value; 0.4 in the released code.
        end: last value; 1.
        rate: 5e-4 in the released code.
        momentum: 0.99 in the released code.

    Raises ValueError unless ``0 <= start <= end <= 1`` and there is a step.

    Source: arXiv 2501.16937, section 3, with the constants of the released code. There the line
    lags by one step.
    """

    mix: Tensor
    last_loss: Tensor
    trend: Tensor
    updates: Tensor

    def __init__(
        self,
        total_steps: int,
        *,
        start: float = 0.4,
        end: float = 1.0,
        rate: float = 5e-4,
        momentum: float = 0.99,
    ) -> None:
        super().__init__()
        if total_steps < 1 or not 0 <= start <= end <= 1:
            raise ValueError(f"no schedule from {start} to {end} in {total_steps} steps")
        self.total_steps, self.rate, self.momentum = total_steps, rate, momentum
        self.start, self.end = start, end
        self.register_buffer("mix", torch.tensor(start))
        self.register_buffer("last_loss", torch.tensor(torch.nan))
        self.register_buffer("trend", torch.tensor(0.0))
        self.register_buffer("updates", torch.tensor(0))

    @torch.no_grad()
    def update(self, loss: Tensor) -> None:
        """Move on by one optimizer step.

        Args:
            loss: the ``taid_loss`` of this step, scalar; averaged over the processes, or their
                targets drift apart. One that is not finite is a step without a change.
        """
        loss = loss.detach().to(self.mix)
        self.updates += 1
        change = (self.last_loss - loss) / (self.last_loss + 1e-15)
        known = change.isfinite()
        trend = torch.lerp(change, self.trend, self.momentum)
        self.trend.copy_(torch.where(known, trend, self.trend))
        gain = self.rate * self.trend.sigmoid() * (1 - self.mix)
        line = self.start + (self.end - self.start) * self.updates / self.total_steps
        moved = torch.where(known, self.mix + gain, self.mix)
        self.mix.copy_(torch.maximum(moved, line).clamp_max(self.end))
        self.last_loss.copy_(torch.where(loss.isfinite(), loss, self.last_loss))
