"""Online hard example mining (Shrivastava et al. 2016, arXiv 1604.03540): cross-entropy of the hard pixels alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from terrazzo.fields import Share, Within
from terrazzo.training.losses.pixels import label_weights, negative_log_likelihood
from terrazzo.training.losses.row import ClassWeightedLoss
from terrazzo.training.losses.strips import sum_over_strips, upsampled_strips

__all__ = ["OHEMCrossEntropy"]


@dataclass(frozen=True, kw_only=True)
class OHEMCrossEntropy(ClassWeightedLoss):
    """The (weighted) mean cross-entropy of the pixels whose label's probability is low.

    Attributes:
        threshold: pixels count whose label has at most this probability.
        min_kept: share of the batch's labelled pixels that count at least, the hardest first.
    """

    threshold: Share = 0.7
    min_kept: Annotated[float, Within(above=0, at_most=1)] = 0.1

    def __call__(
        self, logits_BKhw: Tensor, labels_BHW: Tensor, ignore_index: int, class_weights_K: Tensor | None
    ) -> Tensor:
        kept_BHW = self._kept(logits_BKhw, labels_BHW, ignore_index)
        weights_BHW = label_weights(labels_BHW, ignore_index, class_weights_K) * kept_BHW

        def of_strip(strip_BKrW: Tensor, rows: slice) -> Tensor:
            return (weights_BHW[:, rows] * negative_log_likelihood(strip_BKrW, labels_BHW[:, rows], ignore_index)).sum()

        return sum_over_strips(logits_BKhw, labels_BHW, of_strip) / weights_BHW.sum().clamp(min=1e-6)

    def share(
        self, labels_BHW: Tensor, batch_BHW: Tensor, ignore_index: int, class_weights_K: Tensor | None
    ) -> Tensor | float:
        return len(labels_BHW) / len(batch_BHW)  # each part is a mean over its own hardest pixels

    @torch.no_grad()
    def _kept(self, logits_BKhw: Tensor, labels_BHW: Tensor, ignore_index: int) -> Tensor:
        """Return which pixels count: the `min_kept` least probable, and all up to the threshold."""
        strips = upsampled_strips(logits_BKhw.float().contiguous(), labels_BHW)
        surprise_BHW = torch.cat(
            [negative_log_likelihood(strip, labels_BHW[:, rows], ignore_index) for rows, strip in strips], dim=1
        )
        labelled_BHW = labels_BHW != ignore_index
        surprise_BHW = surprise_BHW.masked_fill(~labelled_BHW, -1.0)
        hardest = surprise_BHW.flatten().sort(descending=True).values
        number = (labelled_BHW.sum() * self.min_kept).ceil().long().clamp(min=1)
        least = hardest.gather(0, number.view(1) - 1).clamp(max=-math.log(max(self.threshold, 1e-30)))
        return labelled_BHW & (surprise_BHW >= least)

    def rehearse(self, logits_BKhw: Tensor, labels_BHW: Tensor) -> Tensor:
        B, H, W = labels_BHW.shape
        # The probabilities, sorted and with their places, the weights, and the two masks, while the strips go through.
        held = labels_BHW.new_empty((B, H, W, 26), dtype=torch.uint8)
        total = super().rehearse(logits_BKhw, labels_BHW)
        del held
        return total
