"""The loss of knowledge distillation (Hinton et al. 2015, arXiv 1503.02531); no row of a recipe's `loss`."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

__all__ = ["distillation"]


def distillation(logits_BKhw: Tensor, theirs_BKhw: Tensor, temperature: float) -> Tensor:
    """Return the mean Kullback-Leibler divergence of softened probabilities, times the square of the temperature.

    The square keeps the size of gradients, whatever the temperature. The teacher's logits are resized to the student's
    map where their sizes differ.

    Args:
        logits_BKhw: the student's.
        theirs_BKhw: the teacher's.
        temperature: that both are divided by.
    """
    theirs = theirs_BKhw.float()
    if theirs.shape[2:] != logits_BKhw.shape[2:]:
        theirs = F.interpolate(theirs, logits_BKhw.shape[2:], mode="bilinear", align_corners=False)
    mine = (logits_BKhw.float() / temperature).log_softmax(1)
    target = (theirs / temperature).log_softmax(1)
    return temperature**2 * F.kl_div(mine, target, reduction="none", log_target=True).sum(1).mean()
