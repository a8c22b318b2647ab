"""Loaders: seeded batches that are the same whatever the number of workers or ranks, and can start in mid-epoch.

Every draw depends only on (seed, epoch, position in the epoch): the order is a permutation drawn from (seed, epoch), and
each photo's augmentation from (seed, epoch, position). So a resumed run sees exactly what it would have seen.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from terrazzo.data.dataset import Dataset
from terrazzo.data.transforms import Compose, pad_to
from terrazzo.preprocess import Preprocess

__all__ = ["Batch", "TrainLoader"]


@dataclass(frozen=True)
class Batch:
    """Images (B, 3, H, W) float32, labels (B, H, W) int64, and the photos' places in the data set."""

    images: Tensor
    labels: Tensor
    indices: list[int]


@dataclass(frozen=True)
class TrainLoader:
    """Endless shuffled, augmented batches, one epoch at a time.

    A data set smaller than a batch is repeated until it fills one; otherwise the last partial batch is dropped, as in
    the papers' code.

    Attributes:
        dataset: the training split.
        augment: the paired steps.
        preprocess: gives the normalisation.
        crop_size: (height, width) that every sample is padded to.
        batch_size: photos per step over all ranks.
        seed: of order and augmentation.
        workers: loader processes; 0 loads in the training process.
        rank: this process among `world_size`.
        world_size: processes that share each global batch.
    """

    dataset: Dataset
    augment: Compose
    preprocess: Preprocess
    crop_size: tuple[int, int]
    batch_size: int
    seed: int
    workers: int
    rank: int = 0
    world_size: int = 1

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

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield this rank's share of every batch of an epoch, from batch `start` on."""
        order = self.order(epoch)
        positions = [
            position
            for batch in range(start, self.batches_per_epoch)
            for position in range(batch * self.batch_size, (batch + 1) * self.batch_size)
            if position % self.world_size == self.rank
        ]
        loader: DataLoader[tuple[Tensor, Tensor, int]] = DataLoader(
            _EpochSamples(self, epoch, order),
            batch_size=self.batch_size // self.world_size,
            sampler=positions,
            num_workers=self.workers,
            worker_init_fn=_start_worker,
            collate_fn=_collate,
            pin_memory=torch.cuda.is_available(),
            multiprocessing_context="fork" if self.workers else None,
        )
        yield from loader


@dataclass(frozen=True)
class _EpochSamples(TorchDataset[tuple[Tensor, Tensor, int]]):
    """Position in the epoch -> an augmented, normalised, padded sample."""

    loader: TrainLoader
    epoch: int
    order: list[int]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor, int]:
        index, loader = self.order[position], self.loader
        rng = np.random.default_rng((loader.seed, self.epoch, position))
        image, mask = loader.augment(*loader.dataset.read(index), rng)
        x_HW3, mask = pad_to(
            loader.preprocess.normalize(image), mask, loader.crop_size, loader.dataset.labels.ignore_index
        )
        return torch.from_numpy(x_HW3).permute(2, 0, 1), torch.from_numpy(mask.astype(np.int64)), index


def _collate(samples: list[tuple[Tensor, Tensor, int]]) -> Batch:
    images, labels, indices = zip(*samples, strict=True)
    return Batch(torch.stack(images), torch.stack(labels), list(indices))


def _start_worker(_: int) -> None:
    """Leave signals to the parent, which saves a checkpoint first, and one core to each worker."""
    import cv2

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
