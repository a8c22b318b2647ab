"""Exponential moving average of the weights: what is validated and shipped."""

from __future__ import annotations

import copy

import torch
from torch import nn

from terrazzo.training.sharding import local

__all__ = ["WeightAverage"]


class WeightAverage:
    """Follows a model's parameters and buffers.

    Args:
        model: the model in training.
        decay: share of the old average kept at each update, once the run is old enough; early on it is
            (1 + n) / (10 + n) after n updates, so that the average forgets the random start.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the model."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        source, target = (
            {key: local(value) for key, value in network.state_dict().items()} for network in (model, self.module)
        )
        floating = [key for key, value in target.items() if value.is_floating_point()]
        torch._foreach_lerp_([target[key] for key in floating], [source[key] for key in floating], 1.0 - decay)
        for key, value in target.items():
            if not value.is_floating_point():
                value.copy_(source[key])
