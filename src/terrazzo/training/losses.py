"""The training loss: cross-entropy at label resolution, computed in strips.

The papers upsample the logits to the label size and take the cross-entropy there. Done literally, the upsampled
logits, their log-softmax and two gradients of (B, K, H, W) exist at once. Here the loss and its gradient are taken
strip by strip of label rows, and only the low-resolution gradient is kept: the same value to rounding, at a small part
of the memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from terrazzo.models.layers import interpolation_matrix
from terrazzo.training.fields import Checked, NotNegative

__all__ = ["LOSSES", "CrossEntropy", "class_weights_from_counts", "strip_rows", "upsampled_cross_entropy"]


@dataclass(frozen=True, kw_only=True)
class CrossEntropy(Checked):
    """Cross-entropy at label resolution, by class weights if asked for.

    Attributes:
        weight: factor on this loss in the sum of all.
        class_weight_power: classes weigh frequency ** -power; 0 weighs pixels alike.
        normalize_by: divide by the labelled pixels (``valid``) or by all of them (``all``, as the papers' code does).
    """

    weight: NotNegative = 1.0
    class_weight_power: NotNegative = 0.0
    normalize_by: Literal["valid", "all"] = "valid"


LOSSES: Mapping[str, type[CrossEntropy]] = {"cross_entropy": CrossEntropy}
"""Every row that `loss` may have."""

STRIP_ELEMENTS = 4_000_000
"""Upsampled logits in one strip: large enough to keep the cores busy, 16 MB in float32."""


def upsampled_cross_entropy(
    logits_BKhw: Tensor,
    labels_BHW: Tensor,
    ignore_index: int,
    class_weights: Tensor | None = None,
    normalize_by: Literal["valid", "all"] = "valid",
) -> Tensor:
    """Return the mean cross-entropy of bilinearly upsampled logits (align_corners=False).

    Args:
        logits_BKhw: the network's output.
        labels_BHW: int64 class indices.
        ignore_index: the label that does not count, 0 or more.
        class_weights: (K,) factor of each class's pixels; with ``valid`` the mean is the weighted mean.
        normalize_by: divide by the labelled pixels' weight, or, as both papers' code does, by all pixels.

    Returns:
        A scalar; 0 with zero gradients where every label is ignored.
    """
    loss: Tensor = _StripLoss.apply(  # type: ignore[no-untyped-call]
        logits_BKhw, labels_BHW, ignore_index, class_weights, normalize_by
    )
    return loss


def strip_rows(logits_BKhw: Tensor, labels_BHW: Tensor) -> int:
    """Return how many rows of labels make a strip."""
    B, K = logits_BKhw.shape[:2]
    return max(STRIP_ELEMENTS // (B * K * labels_BHW.shape[2]), 1)


class _StripLoss(torch.autograd.Function):
    """Value and low-resolution gradient in one pass; backward only scales the gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        logits_BKhw: Tensor,
        labels_BHW: Tensor,
        ignore_index: int,
        class_weights: Tensor | None,
        normalize_by: str,
    ) -> Tensor:
        h, w = logits_BKhw.shape[2:]
        H, W = labels_BHW.shape[1:]
        with torch.enable_grad(), torch.autocast(logits_BKhw.device.type, enabled=False):
            leaf = logits_BKhw.detach().float().contiguous().requires_grad_(ctx.needs_input_grad[0])
            total = leaf.new_zeros(())
            to_rows, to_columns = interpolation_matrix(h, H, leaf), interpolation_matrix(w, W, leaf)
            rows = strip_rows(logits_BKhw, labels_BHW)
            for top in range(0, H, rows):
                strip_BKrW = to_rows[top : top + rows] @ leaf @ to_columns.T
                labels = labels_BHW[:, top : top + rows]
                loss = F.cross_entropy(strip_BKrW, labels, class_weights, ignore_index=ignore_index, reduction="sum")
                if leaf.requires_grad:
                    loss.backward()  # type: ignore[no-untyped-call]
                total += loss.detach()
        divisor = _divisor(labels_BHW, ignore_index, class_weights, normalize_by).to(total)
        if leaf.grad is not None:
            ctx.save_for_backward(leaf.grad.div_(divisor).to(logits_BKhw.dtype))
        return total / divisor

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_outputs[0], None, None, None, None


def _divisor(labels: Tensor, ignore_index: int, class_weights: Tensor | None, normalize_by: str) -> Tensor:
    if normalize_by == "all":
        return torch.tensor(float(labels.numel()))
    if class_weights is None:
        weight = (labels != ignore_index).sum()
    else:
        # One pass over the labels: picking the labelled ones out and looking up their weights takes ten times as long.
        counts = torch.bincount(labels.flatten(), minlength=max(len(class_weights), ignore_index + 1))
        counts[ignore_index] = 0
        weight = counts[: len(class_weights)].double() @ class_weights.double()
    return weight.float().clamp(min=1e-6)


def class_weights_from_counts(counts: Tensor, power: float, largest: float = 10.0) -> Tensor:
    """Return (K,) weights ~ frequency ** -power, whose mean over the counted pixels is 1.

    Args:
        counts: (K,) pixels of each class; classes that never occur get weight 1.
        power: 0 weighs all pixels alike, 0.5 by the inverse square root, 1 all classes alike.
        largest: cap of the weights before they are scaled, against classes of a few pixels.
    """
    share = counts.double() / counts.sum()
    present = share > 0
    weights = torch.ones_like(share)
    weights[present] = (share[present] / share.max()).pow(-power).clamp(max=largest)
    weights[present] /= (weights * share).sum()
    return weights.float()
