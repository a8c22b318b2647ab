"""What an augmentation step is, and the run of a recipe's steps over the photos of a data set.

A step is a frozen dataclass of the fields of its row, and a function of an image, its mask (H, W) of class indices, and
a context. The image is (H, W, 3) uint8 RGB, or float32 bands (H, W, C) on the 0-255 scale without gaps. A step has no
state: every draw comes from the context's generator, which the loader seeds by (seed, epoch, position). So a sample
depends neither on the worker that makes it nor on the samples before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from terrazzo.imaging.resize import Pixels

__all__ = ["Augmentation", "Context", "Image", "Mask", "Step"]

Image: TypeAlias = Pixels
Mask: TypeAlias = NDArray[np.integer]


@dataclass(frozen=True)
class Context:
    """What a step may use beside its image and mask.

    Attributes:
        rng: where all draws come from.
        ignore_index: the mask value that is not a class.
        pixels_K: pixels of each class in all training photos.
        pixels_NK: the same in each of them.
        other: reads a training photo by its place and takes it through the steps before this one.
    """

    rng: np.random.Generator
    ignore_index: int
    pixels_K: NDArray[np.integer]
    pixels_NK: NDArray[np.integer]
    other: Callable[[int], tuple[Image, Mask]]


class Step(Protocol):
    """One row of `augment`."""

    def __call__(self, image: Image, mask: Mask, context: Context) -> tuple[Image, Mask]: ...


@dataclass(frozen=True)
class Augmentation:
    """Steps one after another, over the photos of one data set.

    Attributes:
        steps: in their order.
        read: gives a photo and its mask by their place in the data set.
        pixels_NK: pixels of each class in each of these photos.
        ignore_index: the mask value that is not a class.
    """

    steps: Sequence[Step]
    read: Callable[[int], tuple[Image, Mask]]
    pixels_NK: NDArray[np.integer]
    ignore_index: int

    def __call__(self, index: int, rng: np.random.Generator) -> tuple[Image, Mask]:
        """Read a photo and take it through all steps."""
        return self._through(index, rng, len(self.steps))

    @cached_property
    def pixels_K(self) -> NDArray[np.integer]:
        """Pixels of each class in all photos."""
        pixels: NDArray[np.integer] = self.pixels_NK.sum(axis=0)
        return pixels

    def _through(self, index: int, rng: np.random.Generator, count: int) -> tuple[Image, Mask]:
        image, mask = self.read(index)
        for place, step in enumerate(self.steps[:count]):

            def other(index: int, before: int = place) -> tuple[Image, Mask]:
                return self._through(index, rng, before)

            image, mask = step(image, mask, Context(rng, self.ignore_index, self.pixels_K, self.pixels_NK, other))
        return image, mask
