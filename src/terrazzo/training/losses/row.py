"""A row of a recipe's `loss`: its fields, and how it is computed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from terrazzo.fields import NotNegative
from terrazzo.training.losses.strips import strip_rows
from terrazzo.training.rows import Checked

__all__ = ["ClassWeightedLoss", "Loss"]


@dataclass(frozen=True, kw_only=True)
class Loss(Checked, ABC):
    """A loss between low-resolution logits and full-size labels.

    Every loss is that of the logits upsampled bilinearly (align_corners=False) to the labels' size, as both papers
    train, and most compute it strip by strip.

    Attributes:
        weight: factor on this loss in the sum of all.
    """

    weight: NotNegative = 1.0

    @abstractmethod
    def __call__(
        self, logits_BKhw: Tensor, labels_BHW: Tensor, ignore_index: int, class_weights_K: Tensor | None
    ) -> Tensor:
        """Return a float32 scalar; 0 with zero gradients where every label is ignored.

        Args:
            logits_BKhw: the network's output, of any floating-point type.
            labels_BHW: int64 class indices.
            ignore_index: the label that does not count, 0 or more.
            class_weights_K: factor of each class's pixels, or None; only for a `ClassWeightedLoss`.
        """

    def rehearse(self, logits_BKhw: Tensor, labels_BHW: Tensor) -> Tensor:
        """Take as much memory as a call, with fake tensors: here that of one strip, and no strip takes more."""
        return self(logits_BKhw, labels_BHW[:, : strip_rows(logits_BKhw, labels_BHW)], 255, None)


@dataclass(frozen=True, kw_only=True)
class ClassWeightedLoss(Loss):
    """A mean over pixels that may weigh them by their class.

    Attributes:
        class_weight_power: classes weigh frequency ** -power; 0 weighs pixels alike.
    """

    class_weight_power: NotNegative = 0.0
