"""What the losses over single pixels share: the negative log-likelihood of each label."""

from __future__ import annotations

from torch import Tensor

__all__ = ["label_weights", "negative_log_likelihood"]


def negative_log_likelihood(strip_BKrW: Tensor, labels_BrW: Tensor, ignore_index: int) -> Tensor:
    """Return -log p of every pixel's label, (B, r, W); 0 for ignored pixels."""
    ignored = labels_BrW == ignore_index
    target = labels_BrW.masked_fill(ignored, 0)[:, None]
    return -strip_BKrW.log_softmax(1).gather(1, target)[:, 0].masked_fill(ignored, 0.0)


def label_weights(labels_BrW: Tensor, ignore_index: int, class_weights_K: Tensor | None) -> Tensor:
    """Return the weight of every pixel, (B, r, W) float32; 0 for ignored pixels."""
    ignored = labels_BrW == ignore_index
    if class_weights_K is None:
        return (~ignored).float()
    return class_weights_K[labels_BrW.masked_fill(ignored, 0)].masked_fill(ignored, 0.0)
