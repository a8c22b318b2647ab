"""The losses of training, one file each; a recipe's `loss` is a weighted sum of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from terrazzo.errors import ConfigError
from terrazzo.fields import refuse_unknown
from terrazzo.training.losses.boundary import Boundary
from terrazzo.training.losses.class_weights import class_weights_from_counts
from terrazzo.training.losses.cross_entropy import CrossEntropy
from terrazzo.training.losses.dice import Dice
from terrazzo.training.losses.focal import Focal
from terrazzo.training.losses.lovasz import LovaszSoftmax
from terrazzo.training.losses.ohem import OHEMCrossEntropy
from terrazzo.training.losses.row import ClassWeightedLoss, Loss
from terrazzo.training.losses.tversky import Tversky

__all__ = ["LOSSES", "SHORT_NAMES", "CombinedLoss", "Loss"]

LOSSES: Mapping[str, type[Loss]] = MappingProxyType(
    {
        "cross_entropy": CrossEntropy,
        "ohem": OHEMCrossEntropy,
        "focal": Focal,
        "dice": Dice,
        "tversky": Tversky,
        "lovasz": LovaszSoftmax,
        "boundary": Boundary,
    }
)
"""Every row that a recipe's `loss` may have."""


SHORT_NAMES: Mapping[str, str] = {"ce": "cross_entropy"}


class CombinedLoss:
    """The weighted sum of a recipe's losses.

    Args:
        rows: the losses.
        pixels_K: labelled pixels of each class in the training masks, for class weights.
        ignore_index: the label that does not count.
        device: where logits and labels are.
        names: of the classes, for rows that weigh them by name.

    Raises:
        ConfigError: a row weighs a class that there is not, or no class at all.
    """

    def __init__(
        self,
        rows: Sequence[Loss],
        pixels_K: Tensor,
        ignore_index: int,
        device: torch.device,
        names: Sequence[str] = (),
    ) -> None:
        self.rows, self.ignore_index = rows, ignore_index
        weights = [_class_weights(row, pixels_K, names) for row in rows]
        self.class_weights = [None if weights_K is None else weights_K.to(device) for weights_K in weights]

    def __call__(self, logits_BKhw: Tensor, labels_BHW: Tensor, batch_BHW: Tensor | None = None) -> Tensor:
        """Return the loss of logits at the decoder's stride against labels at full size: a float32 scalar.

        Args:
            logits_BKhw: the network's output.
            labels_BHW: int64 class indices.
            batch_BHW: where these labels are a part of a batch, all of them; the losses of its parts add up.
        """
        total = logits_BKhw.new_zeros((), dtype=torch.float32)
        for row, class_weights_K in zip(self.rows, self.class_weights, strict=True):
            loss = row.weight * row(logits_BKhw, labels_BHW, self.ignore_index, class_weights_K)
            if batch_BHW is not None:
                loss = loss * row.share(labels_BHW, batch_BHW, self.ignore_index, class_weights_K)
            total = total + loss
        return total

    def rehearse(self, logits_BKhw: Tensor, labels_BHW: Tensor) -> Tensor:
        """Take as much memory as a call, with fake tensors, whose values no operation may ask for."""
        total = logits_BKhw.new_zeros((), dtype=torch.float32)
        for row in self.rows:
            total = total + row.weight * row.rehearse(logits_BKhw, labels_BHW)
        return total


def _class_weights(row: Loss, pixels_K: Tensor, names: Sequence[str]) -> Tensor | None:
    if not isinstance(row, ClassWeightedLoss):
        return None
    if row.class_weights is not None:
        refuse_unknown(row.class_weights, names, "class_weights", what="class name", code="recipe-class-weights")
        weights_K = torch.tensor([row.class_weights.get(name, 1.0) for name in names], dtype=torch.float32)
        if not weights_K[pixels_K > 0].any():
            raise ConfigError(
                "class_weights is 0 for every class that the training masks show: there would be nothing to learn",
                fix="give one of them a weight above 0",
                code="recipe-class-weights",
            )
        return weights_K
    return class_weights_from_counts(pixels_K, row.class_weight_power) if row.class_weight_power else None
