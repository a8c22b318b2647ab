"""Steps whose outcome the device still has: reading it at once would be to wait for a GPU at every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["READ_EVERY", "UnreadStep", "read_outcomes"]

READ_EVERY = 10
"""Steps after which a device other than the CPU is asked what became of them."""


@dataclass(frozen=True)
class UnreadStep:
    """One step.

    Attributes:
        number: from 1.
        loss: a number on the device.
        is_finite: a flag on the device; a step whose gradients are not finite has not been taken.
        lr: its learning rate.
        images: names of its images, on this rank.
    """

    number: int
    loss: Tensor
    is_finite: Tensor
    lr: float
    images: list[str]


def read_outcomes(steps: Sequence[UnreadStep]) -> list[tuple[float, bool]]:
    """Wait for the device, once; return the loss of each step, and whether it has been taken."""
    if not steps:
        return []
    values = torch.stack([value.float() for step in steps for value in (step.loss, step.is_finite)]).tolist()
    return [(loss, bool(is_finite)) for loss, is_finite in zip(values[::2], values[1::2], strict=True)]
