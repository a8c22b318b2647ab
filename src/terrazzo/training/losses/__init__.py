"""The losses of training, one file each; a recipe's `loss` is a weighted sum of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from terrazzo.training.losses.boundary import Boundary
from terrazzo.training.losses.class_weights import class_weights_from_counts
from terrazzo.training.losses.cross_entropy import CrossEntropy
from terrazzo.training.losses.dice import Dice
from terrazzo.training.losses.focal import Focal
from terrazzo.training.losses.lovasz import LovaszSoftmax
from terrazzo.training.losses.ohem import OHEMCrossEntropy
from terrazzo.training.losses.row import ClassWeightedLoss, Loss
from terrazzo.training.losses.tversky import Tversky

__all__ = ["LOSSES", "CombinedLoss", "Loss"]

LOSSES: Mapping[str, type[Loss]] = {
    "cross_entropy": CrossEntropy,
    "ohem": OHEMCrossEntropy,
    "focal": Focal,
    "dice": Dice,
    "tversky": Tversky,
    "lovasz": LovaszSoftmax,
    "boundary": Boundary,
}
"""Every row that a recipe's `loss` may have."""


class CombinedLoss:
    """The weighted sum of a recipe's losses.

    Args:
        rows: the losses.
        pixels_K: labelled pixels of each class in the training masks, for class weights.
        ignore_index: the label that does not count.
        device: where logits and labels are.
    """

    def __init__(self, rows: Sequence[Loss], pixels_K: Tensor, ignore_index: int, device: torch.device) -> None:
        self.rows, self.ignore_index = rows, ignore_index
        self.class_weights = [
            class_weights_from_counts(pixels_K, row.class_weight_power).to(device)
            if isinstance(row, ClassWeightedLoss) and row.class_weight_power
            else None
            for row in rows
        ]

    def __call__(self, logits_BKhw: Tensor, labels_BHW: Tensor) -> Tensor:
        """Return the loss of logits at the decoder's stride against int64 labels at full size: a float32 scalar."""
        total = logits_BKhw.new_zeros((), dtype=torch.float32)
        for row, class_weights_K in zip(self.rows, self.class_weights, strict=True):
            total = total + row.weight * row(logits_BKhw, labels_BHW, self.ignore_index, class_weights_K)
        return total

    def rehearse(self, logits_BKhw: Tensor, labels_BHW: Tensor) -> Tensor:
        """Take as much memory as a call, with fake tensors, whose values no operation may ask for."""
        total = logits_BKhw.new_zeros((), dtype=torch.float32)
        for row in self.rows:
            total = total + row.weight * row.rehearse(logits_BKhw, labels_BHW)
        return total
