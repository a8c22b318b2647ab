"""What the losses over regions share: soft counts of each class over the batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from terrazzo.training.losses.strips import sums_over_strips

__all__ = ["mean_of_present", "soft_counts"]


def soft_counts(logits_BKhw: Tensor, labels_BHW: Tensor, ignore_index: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return for each class, over the batch's labelled pixels: shared probability, all probability, and pixels.

    Shared is what the pixels labelled with the class give it (soft true positives). Each has shape (K,).
    """
    K = logits_BKhw.shape[1]

    def of_strip(strip_BKrW: Tensor, rows: slice) -> Tensor:
        labels_BrW = labels_BHW[:, rows]
        labelled_BrW = labels_BrW != ignore_index
        one_hot_BrWK = F.one_hot(labels_BrW.masked_fill(~labelled_BrW, 0), K)
        is_class_BKrW = one_hot_BrWK.movedim(-1, 1) * labelled_BrW[:, None]
        probability_BKrW = strip_BKrW.softmax(1) * labelled_BrW[:, None]
        shared_K = (probability_BKrW * is_class_BKrW).sum((0, 2, 3))
        return torch.stack([shared_K, probability_BKrW.sum((0, 2, 3)), is_class_BKrW.sum((0, 2, 3)).to(shared_K)])

    shared_K, all_K, pixels_K = sums_over_strips(logits_BKhw, labels_BHW, of_strip)
    return shared_K, all_K, pixels_K


def mean_of_present(losses_K: Tensor, pixels_K: Tensor) -> Tensor:
    """Return the mean over the classes that the batch's labels have; 0 where they have none."""
    present_K = (pixels_K > 0).to(losses_K)
    return (losses_K * present_K).sum() / present_K.sum().clamp(min=1)
