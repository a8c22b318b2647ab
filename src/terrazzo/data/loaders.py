"""Loaders: seeded batches that are the same whatever the number of workers or ranks, and can start in mid-epoch.

Every draw depends only on (seed, epoch, position in the epoch): the order is a permutation drawn from (seed, epoch),
and each photo's augmentation from (seed, epoch, position). So a resumed run sees exactly what it would have seen.
"""

from __future__ import annotations

import atexit
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import cache
from multiprocessing.util import get_temp_dir
from typing import Any, Protocol
from weakref import WeakSet

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data import Dataset as TorchDataset

from terrazzo.data.dataset import Dataset
from terrazzo.data.loader_failures import not_handed_over, ran_out_of_files, refuse_if_dead
from terrazzo.data.sources.source import Image
from terrazzo.data.worker_context import WORKERS
from terrazzo.errors import ConfigError, DatasetError, TerrazzoError, TrainingError

__all__ = ["Batch", "TrainLoader", "batch_bytes", "pad_to", "shared_bytes"]

LOOK_SECONDS = 1.0
"""Seconds between two looks, while a batch is awaited, whether the run was told to stop."""

STALLED_SECONDS = 600.0
"""Seconds after which a batch of the workers is given up."""

WORKERS_PER_CORE = 16
"""More loader processes than this for each core only take memory, and are taken for a mistake."""

PREFETCHED = 2
"""Batches that each worker has ready or under way, PyTorch's default."""


@dataclass(frozen=True)
class Batch:
    """One step's photos.

    Attributes:
        images: (B, C, H, W) float32, normalised, in channels-last memory.
        labels: (B, H, W) int64 class indices.
        indices: the photos' places in the data set.
        unlabelled: photos without masks that are learnt from in the same step.
    """

    images: Tensor
    labels: Tensor
    indices: list[int]
    unlabelled: Batch | None = None

    def pin_memory(self) -> Batch:
        """Return the same in page-locked memory; PyTorch's loader calls this where there is a GPU."""
        return Batch(self.images.pin_memory(), self.labels.pin_memory(), self.indices)

    def parts(self, count: int) -> list[Batch]:
        """Return this batch as a number of smaller ones."""
        size = len(self.indices) // count
        places = [slice(first, first + size) for first in range(0, size * count, size)]
        return [Batch(self.images[place], self.labels[place], self.indices[place]) for place in places]


def shared_bytes(workers: int, batch: int, crop_size: tuple[int, int], channels: int = 3) -> int:
    """Return the shared memory in which workers hand over batches of this many crops; 0 without workers."""
    return (PREFETCHED * workers + 1) * batch_bytes(batch, crop_size, channels) if workers else 0


def batch_bytes(batch: int, crop_size: tuple[int, int], channels: int = 3) -> int:
    """Return the memory of a batch of this many crops: float32 images and int64 labels."""
    pixel = channels * torch.float32.itemsize + torch.int64.itemsize
    return batch * crop_size[0] * crop_size[1] * pixel


class Normalization(Protocol):
    """What makes the network's input of an image, such as a `Preprocess`."""

    def normalize(self, image_HWC: Image) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class TrainLoader:
    """Endless shuffled, augmented batches, one epoch after another.

    A data set smaller than a batch is repeated until it fills one; otherwise the last partial batch is dropped, as in
    the papers' code.

    Attributes:
        dataset: the training split.
        augment: reads and augments a photo and its mask by their place in the data set.
        preprocess: gives the normalisation.
        crop_size: (height, width) that every sample is padded to.
        batch_size: photos per step over all ranks.
        seed: of order and augmentation.
        workers: loader processes; 0 loads in the training process.
        rank: this process among `world_size`.
        world_size: processes that share each global batch.
        stalled_seconds: how long to wait for one batch of the workers.

    Raises:
        DatasetError: the data set is empty.
        ConfigError: the ranks cannot share a batch evenly, or the number of workers makes no sense.
    """

    dataset: Dataset
    augment: Callable[[int, np.random.Generator], tuple[Image, NDArray[np.integer]]]
    preprocess: Normalization
    crop_size: tuple[int, int]
    batch_size: int
    seed: int
    workers: int
    rank: int = 0
    world_size: int = 1
    stalled_seconds: float = STALLED_SECONDS

    def __post_init__(self) -> None:
        if not len(self.dataset):
            raise DatasetError(
                f"{self.dataset.root}: {self.dataset.split} holds no photos",
                fix="put photos and masks into it",
                code="dataset-empty",
            )
        if self.batch_size < 1 or self.batch_size % self.world_size:
            shared = max(round(self.batch_size / self.world_size), 1) * self.world_size
            raise ConfigError(
                f"a batch of {self.batch_size} photos cannot be shared evenly by {self.world_size} processes",
                fix=f"use a batch size of {shared}, or another number of processes",
                code="config-batch-size",
            )
        if self.workers < 0:
            raise ConfigError(f"workers is {self.workers}", fix="give 0 or more", code="config-workers")
        most = WORKERS_PER_CORE * (os.cpu_count() or 1)
        if self.workers > most:
            raise ConfigError(
                f"workers is {self.workers}, and this machine has {os.cpu_count()} cores",
                fix=f"give {most} or fewer; one for each core is enough",
                code="config-workers",
            )

    @property
    def batches_per_epoch(self) -> int:
        """Steps in one epoch."""
        return max(len(self.dataset) // self.batch_size, 1)

    def order(self, epoch: int) -> list[int]:
        """Return the photos of one epoch, in the order in which all ranks together see them."""
        rng = np.random.default_rng((self.seed, epoch))
        needed = self.batches_per_epoch * self.batch_size
        order: list[int] = []
        while len(order) < needed:
            order.extend(rng.permutation(len(self.dataset)).tolist())
        return order[:needed]

    def batches(
        self,
        epoch: int,
        start: int = 0,
        count: int | None = None,
        told_to_stop: Callable[[], bool] = lambda: False,
    ) -> Generator[Batch, None, None]:
        """Yield this rank's share of the next `count` batches, across epochs.

        The workers live until the last batch, and load ahead across the end of an epoch, such as during validation.

        Args:
            epoch: its number, from 0.
            start: the first batch of that epoch to yield.
            count: how many batches; None for the rest of the epoch.
            told_to_stop: asked every second while a batch of the workers is waited for; True ends the iteration.

        Raises:
            ImageError, DatasetError: a pair cannot be read, in this process or in a worker; see `Dataset.read`.
            TrainingError: a worker was killed, gives nothing for `stalled_seconds`, or cannot hand its batch over
                because shared memory or file descriptors have run out.
        """
        first = epoch * self.batches_per_epoch + start
        if count is None:
            count = max((epoch + 1) * self.batches_per_epoch - first, 0)
        if not count:
            return
        loader: DataLoader[_Item] = DataLoader(
            _Samples(self),
            batch_sampler=_Places(self, range(first, first + count)),
            num_workers=min(self.workers, count),
            prefetch_factor=PREFETCHED if self.workers else None,
            timeout=LOOK_SECONDS if self.workers else 0,
            worker_init_fn=_start_worker,
            collate_fn=_collate,
            pin_memory=torch.cuda.is_available(),
            multiprocessing_context=WORKERS if self.workers else None,
            generator=torch.Generator(),  # so that starting the loader draws nothing from that of the training process
        )
        batches = _start(loader)
        try:
            for batch in _received(batches, told_to_stop, self.stalled_seconds):
                if isinstance(batch, _Failure):
                    raise batch.error()
                yield batch
        finally:
            _stop(batches)


@dataclass(frozen=True)
class _Places:
    """The samples of each batch, as (epoch, position in the epoch).

    Attributes:
        loader: whose batches they are.
        batches: their numbers, counted over all epochs.
    """

    loader: TrainLoader
    batches: range

    def __iter__(self) -> Iterator[list[_Place]]:
        loader = self.loader
        for number in self.batches:
            epoch, batch = divmod(number, loader.batches_per_epoch)
            first = batch * loader.batch_size
            mine = range(first + loader.rank, first + loader.batch_size, loader.world_size)
            yield [(epoch, position) for position in mine]


@dataclass(frozen=True)
class _Failure:
    """An error on its way out of a worker: PyTorch cannot carry one that takes more than a message."""

    kind: type[TerrazzoError]
    details: dict[str, Any]

    @classmethod
    def of(cls, error: TerrazzoError) -> _Failure:
        return cls(type(error), dict(vars(error)))

    def error(self) -> TerrazzoError:
        error = self.kind.__new__(self.kind, self.details["message"])
        vars(error).update(self.details)
        return error


_Item = tuple[Tensor, Tensor, int] | _Failure
_Place = tuple[int, int]


class _Samples(TorchDataset[_Item]):
    """(epoch, position in it) -> an augmented, normalised, padded sample: (H, W, C), (H, W) and its place."""

    def __init__(self, loader: TrainLoader) -> None:
        self.loader = loader
        self._order: tuple[int, list[int]] = (-1, [])  # of the newest epoch

    def __getitem__(self, place: _Place) -> _Item:
        epoch, position = place
        loader = self.loader
        if self._order[0] != epoch:
            self._order = epoch, loader.order(epoch)
        index = self._order[1][position]
        rng = np.random.default_rng((loader.seed, epoch, position))
        try:
            image, mask = loader.augment(index, rng)
        except TerrazzoError as error:
            return _Failure.of(error)
        x_HWC, mask = pad_to(
            loader.preprocess.normalize(image), mask, loader.crop_size, loader.dataset.labels.ignore_index
        )
        return torch.from_numpy(x_HWC), torch.from_numpy(mask.astype(np.int64)), index


def pad_to(
    image: NDArray[np.float32], mask: NDArray[np.integer], size: tuple[int, int], ignore_index: int
) -> tuple[NDArray[np.float32], NDArray[np.integer]]:
    """Pad a normalised image with 0 (the mean colour) and its mask with `ignore_index`, at the bottom and right."""
    missing_rows, missing_columns = (max(size[axis] - mask.shape[axis], 0) for axis in (0, 1))
    if missing_rows or missing_columns:
        padding = ((0, missing_rows), (0, missing_columns))
        image = np.pad(image, (*padding, (0, 0)))
        mask = np.pad(mask, padding, constant_values=ignore_index)
    return image, mask


def _collate(samples: list[_Item]) -> Batch | _Failure:
    images, labels, indices = [], [], []
    for sample in samples:
        if isinstance(sample, _Failure):
            return sample
        images.append(sample[0])
        labels.append(sample[1])
        indices.append(sample[2])
    stacked = torch.stack(images), torch.stack(labels)
    if get_worker_info() is not None:
        # PyTorch would do this in a thread of its queue, where a failure is printed and its batch is never sent.
        try:
            for tensor in stacked:
                tensor.share_memory_()  # type: ignore[no-untyped-call]
        except (RuntimeError, OSError) as error:
            return _Failure.of(not_handed_over(error, sum(tensor.nbytes for tensor in stacked)))
    return Batch(stacked[0].permute(0, 3, 1, 2), stacked[1], indices)


def _start(loader: DataLoader[_Item]) -> Iterator[Batch | _Failure]:
    """Start the workers, and leave SIGCHLD as it was.

    PyTorch's handler would raise a dead worker's error wherever the training process happens to be, such as half-way
    through a checkpoint. The loader finds out all the same, when it next waits for a batch.
    """
    if loader.num_workers:
        try:
            get_temp_dir()  # made now, since a worker that cannot make it prints a traceback and sends no batch
        except OSError as error:
            raise TrainingError(
                f"the loader workers need a temporary folder, and none can be made: {error.strerror}",
                fix="free space in /tmp, set TMPDIR, or load in the training process with --workers 0",
                code="training-temporary-folder",
            ) from error
    handler = signal.getsignal(signal.SIGCHLD)
    batches = iter(loader)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if handler is None else handler)
    if loader.num_workers:
        _stop_at_exit().add(batches)
    return batches


def _stop(batches: Any) -> None:
    """End the workers now, whoever may still hold the iterator: a traceback, or a variable of the caller."""
    if workers := getattr(batches, "_workers", ()):
        for worker in workers:
            worker.kill()  # first, for PyTorch would wait ten seconds for one that is stuck
        batches._shutdown_workers()


@cache
def _stop_at_exit() -> WeakSet[Any]:
    """Return the set of iterators whose workers are ended when Python exits.

    Python ends its child processes by SIGTERM and then waits for them; ours ignore SIGTERM, and it would wait for ever.
    """
    running: WeakSet[Any] = WeakSet()

    def stop_all() -> None:
        for batches in tuple(running):
            _stop(batches)

    atexit.register(stop_all)
    return running


def _received(
    batches: Iterator[Batch | _Failure], told_to_stop: Callable[[], bool], stalled_seconds: float
) -> Iterator[Batch | _Failure]:
    """Pass batches on, and end the wait for one that will not come: by a stop, or by an error that says why."""
    waiting_since = time.monotonic()
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except Exception as error:
            refuse_if_dead(batches, error)
            if ran_out_of_files(error):
                raise not_handed_over(error) from error
            if not isinstance(error, RuntimeError) or "timed out" not in str(error):
                raise
            if told_to_stop():
                return
            if time.monotonic() - waiting_since > stalled_seconds:
                raise TrainingError(
                    f"the loader workers have given no batch for {stalled_seconds:.0f} seconds",
                    fix="look whether the disk with the photos answers, or load in the training process with "
                    "--workers 0",
                    code="training-loader-stalled",
                ) from error
            continue
        yield batch
        waiting_since = time.monotonic()


def _start_worker(_: int) -> None:
    """Leave signals to the parent, which saves a checkpoint first, and one core to each worker."""
    import cv2

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
