"""What tests of augmentation share: a context, and photos that show their own masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrazzo.data import Dataset
from terrazzo.training.augment import Augmentation, Context, Step

Pair = tuple[NDArray[np.uint8], NDArray[Any]]


def labelled(height: int, width: int, seed: int, classes: int = 5) -> Pair:
    """A photo that shows its own mask: the colour of each pixel is its class."""
    mask = np.random.default_rng(seed).integers(0, classes, (height, width), dtype=np.uint8)
    return np.repeat(mask[..., None], 3, axis=2), mask


def context(rng: Any, images: Sequence[Pair] = (), classes: int = 5) -> Context:
    """A context in which the other photos are these, as they are."""
    counts = [np.bincount(mask.ravel(), minlength=256)[:classes] for _, mask in images]
    pixels_NK = np.array(counts, np.uint32).reshape(len(images), classes)
    return Context(rng, 255, pixels_NK.sum(axis=0), pixels_NK, lambda place: images[place])


def through(steps: Sequence[Step], image: Any, mask: Any, rng: np.random.Generator) -> Pair:
    """Take a photo through some steps."""
    return Augmentation(steps, lambda place: (image, mask), np.ones((1, 5), np.uint32), 255)(0, rng)


def over(dataset: Dataset, steps: Sequence[Step] = ()) -> Augmentation:
    """Return what a loader of a data set takes for some steps."""
    shape = len(dataset), dataset.labels.num_classes
    return Augmentation(steps, dataset.read, np.ones(shape, np.uint32), dataset.labels.ignore_index)
