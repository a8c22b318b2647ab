"""Class weights from how often the classes occur."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["class_weights_from_counts", "weight_of_labels"]


def class_weights_from_counts(counts: Tensor, power: float, largest: float = 10.0) -> Tensor:
    """Return (K,) weights ~ frequency ** -power, whose mean over the counted pixels is 1.

    Args:
        counts: (K,) pixels of each class; classes that never occur get weight 1.
        power: 0 weighs all pixels alike, 0.5 by the inverse square root, 1 all classes alike.
        largest: cap of the weights before they are scaled, against classes of a few pixels.
    """
    share = counts.double() / counts.sum()
    present = share > 0
    weights = torch.ones_like(share)
    weights[present] = (share[present] / share.max()).pow(-power).clamp(max=largest)
    weights[present] /= (weights * share).sum()
    return weights.float()


def weight_of_labels(labels: Tensor, ignore_index: int, class_weights_K: Tensor | None) -> Tensor:
    """Return the sum of all labelled pixels' weights, at least 1e-6: what a mean over them is divided by."""
    if class_weights_K is None:
        weight = (labels != ignore_index).sum()
    else:
        # One pass over the labels: picking the labelled ones out and looking up their weights takes ten times as long.
        counts = torch.bincount(labels.flatten(), minlength=max(len(class_weights_K), ignore_index + 1))
        counts[ignore_index] = 0
        exact = torch.float32 if labels.device.type == "mps" else torch.float64  # which Apple's GPUs do not have
        weight = counts[: len(class_weights_K)].to(exact) @ class_weights_K.to(exact)
    return weight.float().clamp(min=1e-6)
