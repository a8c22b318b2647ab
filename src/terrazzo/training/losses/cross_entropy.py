"""Cross-entropy: the loss of both papers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from terrazzo.fields import Within
from terrazzo.training.losses.class_weights import weight_of_labels
from terrazzo.training.losses.row import ClassWeightedLoss
from terrazzo.training.losses.strips import sum_over_strips

__all__ = ["CrossEntropy", "upsampled_cross_entropy"]


@dataclass(frozen=True, kw_only=True)
class CrossEntropy(ClassWeightedLoss):
    """Cross-entropy.

    Attributes:
        normalize_by: divide by the labelled pixels (``valid``) or by all of them (``all``, as the papers' code does).
        label_smoothing: part of the target that is spread evenly over all classes.
    """

    normalize_by: Literal["valid", "all"] = "valid"
    label_smoothing: Annotated[float, Within(at_least=0, below=1)] = 0.0

    def __call__(
        self, logits_BKhw: Tensor, labels_BHW: Tensor, ignore_index: int, class_weights_K: Tensor | None
    ) -> Tensor:
        return upsampled_cross_entropy(
            logits_BKhw, labels_BHW, ignore_index, class_weights_K, self.normalize_by, self.label_smoothing
        )

    def share(
        self, labels_BHW: Tensor, batch_BHW: Tensor, ignore_index: int, class_weights_K: Tensor | None
    ) -> Tensor | float:
        if self.normalize_by == "all":
            return len(labels_BHW) / len(batch_BHW)
        return super().share(labels_BHW, batch_BHW, ignore_index, class_weights_K)


def upsampled_cross_entropy(
    logits_BKhw: Tensor,
    labels_BHW: Tensor,
    ignore_index: int,
    class_weights_K: Tensor | None = None,
    normalize_by: Literal["valid", "all"] = "valid",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return the mean cross-entropy of bilinearly upsampled logits (align_corners=False).

    Args:
        logits_BKhw: the network's output.
        labels_BHW: int64 class indices.
        ignore_index: the label that does not count, 0 or more.
        class_weights_K: factor of each class's pixels; with ``valid`` the mean is the weighted mean.
        normalize_by: divide by the labelled pixels' weight, or, as both papers' code does, by all pixels.
        label_smoothing: part of the target that is spread evenly over all classes.

    Returns:
        A scalar; 0 with zero gradients where every label is ignored.
    """

    def of_strip(strip_BKrW: Tensor, rows: slice) -> Tensor:
        return F.cross_entropy(
            strip_BKrW,
            labels_BHW[:, rows],
            class_weights_K,
            ignore_index=ignore_index,
            reduction="sum",
            label_smoothing=label_smoothing,
        )

    total = sum_over_strips(logits_BKhw, labels_BHW, of_strip)
    if normalize_by == "all":
        return total / torch.tensor(float(labels_BHW.numel())).to(total)
    return total / weight_of_labels(labels_BHW, ignore_index, class_weights_K).to(total)
