"""Exponential moving average (EMA) of the weights, which is validated and saved as the model."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from terrazzo.training.sharding import local

__all__ = ["WeightAverage", "move_by"]


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
    def update(self, model: nn.Module, is_taken: Tensor | None = None) -> None:
        """Move the average towards the model; with a flag on its device, if that is set.

        A GPU is not asked for its flag. So a step that was not taken there counts in `updates`, which changes how fast
        the average forgets the first steps, and nothing else.
        """
        if is_taken is not None and is_taken.device.type == "cpu":
            if not is_taken:
                return
            is_taken = None
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        source, target = (
            {key: local(value) for key, value in network.state_dict().items()} for network in (model, self.module)
        )
        floating = [key for key, value in target.items() if value.is_floating_point()]
        ours, theirs = [target[key] for key in floating], [source[key] for key in floating]
        share = 1.0 - decay
        if is_taken is None:
            torch._foreach_lerp_(ours, theirs, share)
        else:
            move_by(ours, theirs, share * is_taken)
        for key, value in target.items():
            if not value.is_floating_point():
                value.copy_(source[key])


def move_by(tensors: list[Tensor], towards: list[Tensor], weight: Tensor) -> None:
    """Move tensors towards others by a share that only their device knows, in few kernels."""
    steps = torch._foreach_sub(towards, tensors)
    torch._foreach_mul_(steps, weight)
    torch._foreach_add_(tensors, steps)
