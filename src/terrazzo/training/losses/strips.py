"""Sums over upsampled logits, computed in strips of label rows, so that the full-size logits never exist at once.

Done literally, upsampled logits, their softmax and two gradients of (B, K, H, W) are in memory together. Here a strip
is upsampled, its part of the sum and of the low-resolution gradient is taken, and it is dropped: the same value and
gradient to rounding, at a small part of the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from terrazzo.models.layers import interpolation_matrix

__all__ = ["strip_rows", "sum_over_strips", "sums_over_strips", "upsampled_strips"]

STRIP_ELEMENTS = 4_000_000
"""Upsampled logits in one strip: large enough to keep the cores busy, 16 MB in float32."""

StripFunction = Callable[[Tensor, slice], Tensor]
"""From (B, K, r, W) float32 logits and the rows of the labels that they are for, to this strip's part of a sum."""


def strip_rows(logits_BKhw: Tensor, labels_BHW: Tensor) -> int:
    """Return how many rows of labels make a strip."""
    B, K = logits_BKhw.shape[:2]
    return max(STRIP_ELEMENTS // (B * K * labels_BHW.shape[2]), 1)


def upsampled_strips(logits_BKhw: Tensor, labels_BHW: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield the rows of each strip and its (B, K, r, W) logits, bilinearly upsampled (align_corners=False)."""
    h, w = logits_BKhw.shape[2:]
    H, W = labels_BHW.shape[1:]
    to_rows, to_columns = interpolation_matrix(h, H, logits_BKhw), interpolation_matrix(w, W, logits_BKhw)
    step = strip_rows(logits_BKhw, labels_BHW)
    for top in range(0, H, step):
        rows = slice(top, top + step)
        yield rows, to_rows[rows] @ logits_BKhw @ to_columns.T


def sum_over_strips(logits_BKhw: Tensor, labels_BHW: Tensor, function: StripFunction) -> Tensor:
    """Return the sum of a scalar function over all strips, differentiable in the logits.

    Value and gradient are taken in one pass, forward; backward only scales the gradient.
    """
    total: Tensor = _Sum.apply(logits_BKhw, labels_BHW, function)  # type: ignore[no-untyped-call]
    return total


def sums_over_strips(logits_BKhw: Tensor, labels_BHW: Tensor, function: StripFunction) -> Tensor:
    """Return the sum of a function with several values over all strips, differentiable in the logits.

    What is made of the sums decides the gradient, so backward upsamples each strip a second time.
    """
    total: Tensor = _Sums.apply(logits_BKhw, labels_BHW, function)  # type: ignore[no-untyped-call]
    return total


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_BKhw: Tensor, labels_BHW: Tensor, function: StripFunction) -> Tensor:
        with torch.enable_grad(), torch.autocast(logits_BKhw.device.type, enabled=False):
            leaf = logits_BKhw.detach().float().contiguous().requires_grad_(ctx.needs_input_grad[0])
            total = leaf.new_zeros(())
            for rows, strip_BKrW in upsampled_strips(leaf, labels_BHW):
                part = function(strip_BKrW, rows)
                if leaf.requires_grad:
                    part.backward()  # type: ignore[no-untyped-call]
                total += part.detach()
        if leaf.grad is not None:
            ctx.save_for_backward(leaf.grad)
        ctx.dtype = logits_BKhw.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return (gradient * grad_outputs[0]).to(ctx.dtype), None, None


class _Sums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_BKhw: Tensor, labels_BHW: Tensor, function: StripFunction) -> Tensor:
        ctx.save_for_backward(logits_BKhw, labels_BHW)
        ctx.function = function
        with torch.no_grad(), torch.autocast(logits_BKhw.device.type, enabled=False):
            strips = upsampled_strips(logits_BKhw.detach().float().contiguous(), labels_BHW)
            parts = (function(strip_BKrW, rows) for rows, strip_BKrW in strips)
            total = next(parts)
            for part in parts:
                total = total + part
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        logits_BKhw, labels_BHW = ctx.saved_tensors
        with torch.enable_grad(), torch.autocast(logits_BKhw.device.type, enabled=False):
            leaf = logits_BKhw.detach().float().contiguous().requires_grad_()
            for rows, strip_BKrW in upsampled_strips(leaf, labels_BHW):
                (ctx.function(strip_BKrW, rows) * grad_outputs[0]).sum().backward()
        gradient = leaf.grad
        assert gradient is not None
        return gradient.to(logits_BKhw.dtype), None, None
