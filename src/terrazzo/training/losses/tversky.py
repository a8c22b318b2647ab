"""Tversky loss (Salehi et al. 2017, arXiv 1706.05721): Dice with separate prices for what is too much and missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from terrazzo.fields import NotNegative, Within
from terrazzo.training.losses.regions import mean_of_present, soft_counts
from terrazzo.training.losses.row import Loss

__all__ = ["Tversky"]


@dataclass(frozen=True, kw_only=True)
class Tversky(Loss):
    """(1 - TP / (TP + alpha FP + beta FN)) ** gamma of soft counts over the batch, averaged over its classes.

    Attributes:
        alpha: price of false positives. With `beta`, 0.5 each is Dice and 1 each is soft IoU (Jaccard).
        beta: price of false negatives; above `alpha` it favours finding everything.
        gamma: focal exponent (Abraham and Khan 2019, arXiv 1810.07842, use 3/4); 1 is the plain loss.
        smooth: pixels added above and below.
    """

    alpha: NotNegative = 0.3
    beta: NotNegative = 0.7
    gamma: Annotated[float, Within(above=0)] = 1.0
    smooth: Annotated[float, Within(above=0)] = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("alpha", self.alpha + self.beta > 0, "above 0 where beta is 0: else no mistake costs anything")

    def __call__(
        self, logits_BKhw: Tensor, labels_BHW: Tensor, ignore_index: int, class_weights_K: Tensor | None
    ) -> Tensor:
        shared_K, all_K, pixels_K = soft_counts(logits_BKhw, labels_BHW, ignore_index)
        wrong_K = self.alpha * (all_K - shared_K) + self.beta * (pixels_K - shared_K)
        index_K = (shared_K + self.smooth) / (shared_K + wrong_K + self.smooth)
        # Kept off 0, where a power below 1 has no finite slope.
        return mean_of_present((1 - index_K).clamp(min=1e-7) ** self.gamma, pixels_K)
