"""Dice loss (Milletari et al. 2016, arXiv 1606.04797): overlap of each class, independent of its size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from terrazzo.fields import Within
from terrazzo.training.losses.regions import mean_of_present, soft_counts
from terrazzo.training.losses.row import Loss

__all__ = ["Dice"]


@dataclass(frozen=True, kw_only=True)
class Dice(Loss):
    """1 - 2 |P and L| / (|P| + |L|) of the probabilities P and the label L, over the batch, averaged over its classes.

    Attributes:
        smooth: pixels added to numerator and denominator, which steadies the loss of small classes.
    """

    smooth: Annotated[float, Within(above=0)] = 1.0

    def __call__(
        self, logits_BKhw: Tensor, labels_BHW: Tensor, ignore_index: int, class_weights_K: Tensor | None
    ) -> Tensor:
        shared_K, all_K, pixels_K = soft_counts(logits_BKhw, labels_BHW, ignore_index)
        dice_K = (2 * shared_K + self.smooth) / (all_K + pixels_K + self.smooth)
        return mean_of_present(1 - dice_K, pixels_K)
