"""Splits kept decoded in memory where they fit, so that each file is read once and not in every epoch.

For photos of ordinary size, decoding is half of a loader's work. All files are decoded before the first step and before
the loader processes are forked off, which share the memory: it is taken once, however many processes there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from terrazzo.data import Dataset
from terrazzo.data.pixel_counts import in_threads
from terrazzo.errors import TerrazzoError
from terrazzo.training.distributed import ranks_here
from terrazzo.training.memory import memory_of
from terrazzo.training.memory_plan import in_words
from terrazzo.training.preflight import refuse

__all__ = ["DecodedDataset", "decoded_where_they_fit"]

LARGEST_SHARE = 1 / 8
"""Of the free memory, that decoded photos may take."""

Pair = tuple[NDArray[np.uint8], NDArray[np.integer]]


@dataclass(frozen=True)
class DecodedDataset(Dataset):
    """A split whose photos and masks are in memory.

    Attributes:
        pairs: what `read` returns for each sample; the arrays cannot be written to.
    """

    pairs: tuple[Pair, ...] = ()

    def read(self, index: int) -> Pair:
        return self.pairs[index]


def decoded_where_they_fit(splits: Sequence[Dataset]) -> tuple[list[Dataset], list[str]]:
    """Return the splits, decoded if they fit into an eighth of the free memory, and a line that says so.

    Raises:
        TerrazzoError: a file cannot be used; as `refuse_unreadable`.
    """
    memory = memory_of(torch.device("cpu"))
    needed = sum(map(_decoded_bytes, splits)) * ranks_here()
    if memory is None or needed > memory.free * LARGEST_SHARE:
        return list(splits), []
    decoded: list[Dataset] = []
    failures: list[TerrazzoError] = []
    for split in splits:
        read = list(in_threads(partial(_pair, split), range(len(split))))
        failures += [one for one in read if isinstance(one, TerrazzoError)]
        pairs = tuple(one for one in read if not isinstance(one, TerrazzoError))
        decoded.append(DecodedDataset(**vars(split), pairs=pairs))
    refuse(failures)
    return decoded, [f"photos    kept decoded in memory ({in_words(needed)})"]


def _decoded_bytes(split: Dataset) -> int:
    """What the photos and masks of a split take, by their headers and the first pair."""
    image, mask = split.read(0)
    pixels = sum(
        height * width for height, width in (sample.image.with_reading(split.reading).size for sample in split.samples)
    )
    return (image.nbytes + mask.nbytes) * pixels // mask.size


def _pair(split: Dataset, index: int) -> Pair | TerrazzoError:
    try:
        pair: tuple[Any, Any] = split.read(index)
    except TerrazzoError as error:
        return error
    for array in pair:
        array.setflags(write=False)
    return pair
