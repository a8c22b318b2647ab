"""Focal loss (Lin et al. 2017, arXiv 1708.02002): cross-entropy with less weight on pixels that are classified well."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from terrazzo.fields import NotNegative
from terrazzo.training.losses.class_weights import weight_of_labels
from terrazzo.training.losses.pixels import label_weights, negative_log_likelihood
from terrazzo.training.losses.row import ClassWeightedLoss
from terrazzo.training.losses.strips import sum_over_strips

__all__ = ["Focal"]


@dataclass(frozen=True, kw_only=True)
class Focal(ClassWeightedLoss):
    """The (weighted) mean over labelled pixels of (1 - p) ** gamma * -log p, p being the label's probability.

    Attributes:
        gamma: how fast sure pixels fade; 0 is cross-entropy. The paper's class factor alpha is `class_weight_power`.
    """

    gamma: NotNegative = 2.0

    def __call__(
        self, logits_BKhw: Tensor, labels_BHW: Tensor, ignore_index: int, class_weights_K: Tensor | None
    ) -> Tensor:
        def of_strip(strip_BKrW: Tensor, rows: slice) -> Tensor:
            labels_BrW = labels_BHW[:, rows]
            nll_BrW = negative_log_likelihood(strip_BKrW, labels_BrW, ignore_index)
            # 1 - p, kept off 0, where the power has no finite slope.
            unsure_BrW = (-(-nll_BrW).expm1()).clamp(min=1e-12)
            return (label_weights(labels_BrW, ignore_index, class_weights_K) * unsure_BrW**self.gamma * nll_BrW).sum()

        total = sum_over_strips(logits_BKhw, labels_BHW, of_strip)
        return total / weight_of_labels(labels_BHW, ignore_index, class_weights_K).to(total)
