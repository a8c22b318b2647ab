"""A row of a recipe's `loss`: its fields, and how it is computed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from terrazzo.fields import NotNegative, Within, read_value
from terrazzo.training.losses.class_weights import weight_of_labels
from terrazzo.training.losses.strips import strip_rows
from terrazzo.training.rows import Checked

__all__ = ["ClassWeightedLoss", "Loss"]


ClassWeight = Annotated[float, Within(at_least=0, at_most=1e6)]


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

    def share(
        self, labels_BHW: Tensor, batch_BHW: Tensor, ignore_index: int, class_weights_K: Tensor | None
    ) -> Tensor | float:
        """Return the factor on the loss of a part of a batch, so that the parts add up to the batch's.

        They do where the loss is a mean over images or pixels. Of other losses, such as an overlap over the batch, the
        parts' are averaged.

        Args:
            labels_BHW: of the part.
            batch_BHW: of the whole batch.
            ignore_index: the label that does not count.
            class_weights_K: factor of each class's pixels, or None.
        """
        return len(labels_BHW) / len(batch_BHW)

    def rehearse(self, logits_BKhw: Tensor, labels_BHW: Tensor) -> Tensor:
        """Take as much memory as a call, with fake tensors: here that of one strip, and no strip takes more."""
        return self(logits_BKhw, labels_BHW[:, : strip_rows(logits_BKhw, labels_BHW)], 255, None)


@dataclass(frozen=True, kw_only=True)
class ClassWeightedLoss(Loss):
    """A mean over pixels that may weigh them by their class.

    Attributes:
        class_weight_power: classes weigh frequency ** -power; 0 weighs pixels alike.
        class_weights: weights by the names of classes, in place of those by frequency; classes left out weigh 1.
    """

    class_weight_power: NotNegative = 0.0
    class_weights: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, weight in (self.class_weights or {}).items():
            read_value(weight, ClassWeight, f"class_weights.{name}", code="recipe-value")

    def share(
        self, labels_BHW: Tensor, batch_BHW: Tensor, ignore_index: int, class_weights_K: Tensor | None
    ) -> Tensor | float:
        part, whole = (weight_of_labels(labels, ignore_index, class_weights_K) for labels in (labels_BHW, batch_BHW))
        return part / whole
