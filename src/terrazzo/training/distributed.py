"""One process or several: torchrun's environment, and the few things that ranks tell each other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.rendezvous import rendezvous

from terrazzo.engines.torch import find_device
from terrazzo.errors import ConfigError
from terrazzo.text import show
from terrazzo.training.sharding import alone, is_sharded, shard

__all__ = ["Ranks", "joined_ranks", "ranks_here", "restarted_by_torchrun"]

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process's place among those of the run.

    Attributes:
        rank: 0 for the one that writes files.
        world_size: how many there are.
        device: where this one computes.
        patient: group for Python objects and for waiting as long as it takes; None for one process.
    """

    rank: int
    world_size: int
    device: torch.device
    patient: Any = None

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks to the user."""
        return self.rank == 0

    def share_weights(self, model: nn.Module) -> None:
        """Give all ranks the weights of rank 0."""
        if self.world_size > 1:
            for tensor in [*model.parameters(), *model.buffers()]:
                dist.broadcast(tensor.data, 0)

    def wrap(self, model: nn.Module, sync_batchnorm: bool, sharded: bool = False) -> nn.Module:
        """Return the module to call in training: averaged gradients, and on GPUs shared BatchNorm statistics.

        Args:
            model: what to train, in place, with the same weights on all ranks.
            sync_batchnorm: share the statistics; on the CPU PyTorch cannot, and each rank keeps its own.
            sharded: have each rank keep a share of the parameters and of what belongs to them.
        """
        if self.world_size == 1:
            return model
        if sync_batchnorm and self.device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        if sharded:
            return shard(model)
        return nn.parallel.DistributedDataParallel(model)

    def apart(self, wrapped: nn.Module) -> AbstractContextManager[None]:
        """Have gradients of this process stay its own for a while: they are averaged with the next ones."""
        if isinstance(wrapped, nn.parallel.DistributedDataParallel):
            without: AbstractContextManager[None] = wrapped.no_sync()
            return without
        return alone(wrapped) if is_sharded(wrapped) else nullcontext()

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum of a tensor over all ranks."""
        if self.world_size > 1:
            values = values.to(self.device)
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Tell whether the flag is raised on any rank."""
        return bool(self.sum(torch.tensor(int(flag))) > 0)

    def gather(self, value: T) -> list[T]:
        """Return the ranks' values, in the order of the ranks, to all of them."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self.patient)
        return values

    def share_buffers(self, model: nn.Module) -> None:
        """Give all ranks rank 0's buffers: where statistics are not shared, each has those of its own batches."""
        if self.world_size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def wait(self) -> None:
        """Wait until all ranks are here, however long the files take that one of them writes."""
        if self.world_size > 1:
            dist.barrier(group=self.patient)


@contextmanager
def joined_ranks(device: str | None) -> Iterator[Ranks]:
    """Join the process group that torchrun describes, if it does, and leave it at the end.

    Args:
        device: as `terrazzo.engines.torch.find_device` takes it; ``cuda`` is each process's own GPU.

    Raises:
        ConfigError: there is no such device.
    """
    world_size = _number_of("WORLD_SIZE")
    place = _place(device, _number_of("LOCAL_RANK", 0))
    if world_size == 1:
        yield Ranks(0, 1, place)
        return
    if place.type == "cuda":
        torch.cuda.set_device(place)
    # Processes that torchrun starts again find the addresses of the dead in the same store, and would wait for them.
    store, rank, _ = next(rendezvous("env://"))
    store = dist.PrefixStore(f"start-{_restarts()}", store)  # type: ignore[attr-defined]
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo", store=store, rank=rank, world_size=world_size)
    try:
        patient = dist.new_group(backend="gloo", timeout=timedelta(days=7))
        yield Ranks(rank, world_size, place, patient)
    finally:
        dist.destroy_process_group()


def restarted_by_torchrun() -> bool:
    """Tell whether torchrun started these processes again after one of them had died."""
    return _restarts() > 0


def ranks_here(otherwise: int = 1) -> int:
    """Processes of the run on this machine, as torchrun says it; another number where it says nothing."""
    return _number_of("LOCAL_WORLD_SIZE", otherwise)


def _restarts() -> int:
    return _number_of("TORCHELASTIC_RESTART_COUNT", 0)


def _place(device: str | None, local_rank: int) -> torch.device:
    """Return where a process computes; on a machine with several GPUs, each process of a run has its own."""
    if device is None or device.strip().lower() == "cuda":
        device = f"cuda:{local_rank}" if device is not None or torch.cuda.is_available() else "cpu"
    elif _number_of("WORLD_SIZE") > 1 and device != "cpu":
        raise ConfigError(
            f"device is {device!r}, and each process of torchrun has a GPU of its own",
            fix="leave --device out, and choose GPUs with CUDA_VISIBLE_DEVICES",
            code="config-device",
        )
    try:
        return find_device(device)
    except ConfigError as error:
        raise ConfigError(error.message, fix=error.fix, code="config-device") from error


def _number_of(variable: str, default: int = 1) -> int:
    text = os.environ.get(variable, str(default))
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise ConfigError(
            f"the environment variable {variable} is {show(text)}, and not a whole number",
            fix="start with torchrun, which sets it, or unset it",
            code="config-environment",
        )
    return int(text)
