"""One process or several: torchrun's environment, and the few sums that ranks share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

__all__ = ["Ranks", "joined_ranks"]


@dataclass(frozen=True)
class Ranks:
    """This process's place among those of the run.

    Attributes:
        rank: 0 for the one that writes files.
        world_size: how many there are.
        device: where this one computes.
    """

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks to the user."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the module to call in training: averaged gradients, and on GPUs shared BatchNorm statistics."""
        if self.world_size == 1:
            return model
        if self.device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return nn.parallel.DistributedDataParallel(model)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum of a tensor over all ranks."""
        if self.world_size > 1:
            values = values.to(self.device)
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Tell whether the flag is raised on any rank."""
        return bool(self.sum(torch.tensor(int(flag))) > 0)


@contextmanager
def joined_ranks(device: str | None) -> Iterator[Ranks]:
    """Join the process group that torchrun describes, if it does, and leave it at the end.

    Args:
        device: ``cpu``, ``cuda`` or None for a GPU where there is one.
    """
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield Ranks(0, 1, torch.device(kind))
        return
    place = torch.device(kind, int(os.environ.get("LOCAL_RANK", "0"))) if kind == "cuda" else torch.device(kind)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank(), world_size, place)
    finally:
        dist.destroy_process_group()
