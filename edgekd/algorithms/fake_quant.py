"""Fake quantization with a straight-through gradient and a learned step size.

``y = s * clamp(round(x / s), lo, hi)`` with ``lo = qmin - zero_point`` and ``hi = qmax -
zero_point``: the zero point cancels between quantization and dequantization, so the arithmetic
needs only the shifted bounds. Rounding is half to even, as ONNX QuantizeLinear has it.

Gradients (Esser et al., "Learned Step Size Quantization", ICLR 2020, arXiv 1902.08153, eq. 3):
inside the range dy/dx = 1 and dy/ds = round(x/s) - x/s; outside dy/dx = 0 and dy/ds = lo or hi.

Why not ``torch.fake_quantize_per_tensor_affine``: its CPU kernel is not vectorised, and the four
in-place passes below make the whole training step cheaper (``benchmarks/step_cost.py`` prints
both).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def quantize_dequantize(x: Tensor, scale: Tensor, lo: int, hi: int) -> Tensor:
    """Return ``scale * clamp(round(x / scale), lo, hi)``; ``scale`` broadcasts against ``x``."""
    return torch.div(x, scale).round_().clamp_(lo, hi).mul_(scale)


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, lo: int, hi: int) -> Tensor:
        y = quantize_dequantize(x, scale, lo, hi)
        ctx.save_for_backward(x, y, scale)
        ctx.bounds = (lo, hi)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        (grad,) = grads
        x, y, scale = ctx.saved_tensors
        # One step is read as a number, for which a GPU would have to be waited for.
        fast = scale.numel() == 1 and scale.device.type == "cpu"
        gradients = _per_tensor if fast else _per_channel
        grad_x, grad_scale = gradients(grad, x, y, scale, ctx.bounds)
        return grad_x, grad_scale() if ctx.needs_input_grad[1] else None, None, None


Gradients = tuple[Tensor, Callable[[], Tensor]]


def _per_tensor(
    grad: Tensor, x: Tensor, y: Tensor, scale: Tensor, bounds: tuple[int, int]
) -> Gradients:
    """Return the gradients for one scale: the hot path, since it runs on every activation."""
    step, (lo, hi) = scale.item(), bounds
    # hardtanh's gradient is the straight-through mask in one vectorised pass.
    grad_x = torch.ops.aten.hardtanh_backward(grad, x, lo * step, hi * step)

    def grad_scale() -> Tensor:
        # sum(grad * dy/ds) with dy/ds = (y - x)/s inside and y/s outside, as two dot products.
        total = torch.dot(grad.reshape(-1), y.reshape(-1))
        total = total - torch.dot(grad_x.reshape(-1), x.reshape(-1))
        return (total / step).reshape(scale.shape)

    return grad_x, grad_scale


def _per_channel(
    grad: Tensor, x: Tensor, y: Tensor, scale: Tensor, bounds: tuple[int, int]
) -> Gradients:
    """Return the gradients for a scale of any shape that broadcasts: weights, which are small."""
    lo, hi = bounds
    grad_x = grad * ((x > lo * scale) & (x < hi * scale))
    return grad_x, lambda: ((grad * y - grad_x * x) / scale).sum_to_size(scale.shape)


def fake_quantize(x: Tensor, scale: Tensor, lo: int, hi: int) -> Tensor:
    """Quantize and dequantize ``x`` with straight-through gradients to ``x`` and ``scale``.

    Args:
        x: float tensor of any shape.
        scale: positive step size, one value, or a shape that broadcasts against ``x``.
        lo: smallest integer level, zero point subtracted.
        hi: largest integer level, zero point subtracted.

    Under autocast too the arithmetic and the result have the precision of ``scale``, float32.
    """
    return _FakeQuantize.apply(x.to(scale.dtype), scale, lo, hi)  # type: ignore[no-any-return, no-untyped-call]


def lsq_gradient_scale(x: Tensor, groups: int, hi: int) -> float:
    """Return LSQ's ``1 / sqrt(N * Qp)`` (section 2.2), N being the values that share a step."""
    return 1.0 / math.sqrt(max(1, x.numel() // groups) * max(1, hi))
