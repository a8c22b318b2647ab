"""Lovász-softmax (Berman et al. 2018, arXiv 1705.08790): a differentiable surrogate of the IoU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from terrazzo.training.losses.row import Loss
from terrazzo.training.losses.strips import sum_over_strips, upsampled_strips

__all__ = ["LovaszSoftmax"]

GROUP_ELEMENTS = 16_000_000
"""Errors of all pixels that are in memory at once: as many classes go through together."""


@dataclass(frozen=True, kw_only=True)
class LovaszSoftmax(Loss):
    """The Lovász extension of 1 - IoU over the batch, averaged over the classes that its labels have.

    A class's loss depends on the order of all its pixels' errors, so these are kept in full, for some classes at a
    time. Within one order it is linear in the probabilities, so its gradient is taken strip by strip.
    """

    def __call__(
        self, logits_BKhw: Tensor, labels_BHW: Tensor, ignore_index: int, class_weights_K: Tensor | None
    ) -> Tensor:
        present = [k for k in torch.unique(labels_BHW).tolist() if k != ignore_index]
        total = logits_BKhw.sum(dtype=torch.float32) * 0.0
        for classes in _groups(present, labels_BHW.numel()):
            value, slopes_GBHW = _value_and_slopes(logits_BKhw, labels_BHW, ignore_index, classes)

            linear = partial(_weighted_sum, classes=classes, slopes_GBHW=slopes_GBHW)
            with_gradient = sum_over_strips(logits_BKhw, labels_BHW, linear)
            total = total + value + (with_gradient - with_gradient.detach())
        return total / max(len(present), 1)

    def rehearse(self, logits_BKhw: Tensor, labels_BHW: Tensor) -> Tensor:
        most = max(GROUP_ELEMENTS // labels_BHW.numel(), 1)
        group = min(most, logits_BKhw.shape[1])
        # Errors and slopes of a group, and of one class the order, labels and running sums.
        held = labels_BHW.new_empty((8 * group + 40, *labels_BHW.shape), dtype=torch.uint8)
        rows = next(iter(upsampled_strips(logits_BKhw.float().contiguous(), labels_BHW)))[0]
        total = sum_over_strips(logits_BKhw, labels_BHW[:, rows], lambda strip_BKrW, _: strip_BKrW.softmax(1).sum())
        del held
        return total


def _weighted_sum(strip_BKrW: Tensor, rows: slice, *, classes: list[int], slopes_GBHW: Tensor) -> Tensor:
    return (strip_BKrW.softmax(1)[:, classes].transpose(0, 1) * slopes_GBHW[:, :, rows]).sum()


def _groups(classes: list[int], pixels: int) -> Iterator[list[int]]:
    step = max(GROUP_ELEMENTS // pixels, 1)
    for start in range(0, len(classes), step):
        yield classes[start : start + step]


@torch.no_grad()
def _value_and_slopes(
    logits_BKhw: Tensor, labels_BHW: Tensor, ignore_index: int, classes: list[int]
) -> tuple[Tensor, Tensor]:
    """Return the sum of the classes' losses, and its derivative by their probabilities at every pixel, (G, B, H, W)."""
    strips = upsampled_strips(logits_BKhw.float().contiguous(), labels_BHW)
    probability_GBHW = torch.cat([strip.softmax(1)[:, classes].transpose(0, 1) for _, strip in strips], dim=2)
    labelled_N = (labels_BHW != ignore_index).flatten()
    value = probability_GBHW.new_zeros(())
    for k, probability_BHW in zip(classes, probability_GBHW, strict=True):
        probability_N = probability_BHW.flatten()
        is_class_N = (labels_BHW == k).flatten()
        errors_N = torch.where(is_class_N, 1 - probability_N, probability_N).masked_fill(~labelled_N, -1.0)
        errors, order_N = errors_N.sort(descending=True)
        # The discrete derivative of 1 - IoU as one pixel after the other becomes wrong, the worst first.
        in_order = is_class_N[order_N].float()
        intersection, union = in_order.sum() - in_order.cumsum(0), in_order.sum() + (1 - in_order).cumsum(0)
        steps_N = (1 - intersection / union).diff(prepend=in_order.new_zeros(1))
        steps_N = steps_N.masked_fill(errors < 0, 0.0)
        value += (errors * steps_N).sum()
        slopes_N = torch.empty_like(steps_N).scatter_(0, order_N, steps_N)
        probability_BHW.copy_(torch.where(is_class_N, -slopes_N, slopes_N).view_as(probability_BHW))
    return value, probability_GBHW
