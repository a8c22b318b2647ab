"""Random crop with a limit on the largest class, as in both papers' code (cat_max_ratio)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from terrazzo.fields import Share, Within
from terrazzo.imaging.read import MAX_PIXELS
from terrazzo.training.augment.step import Context, Image, Mask
from terrazzo.training.rows import Checked

__all__ = ["RandomCrop"]

RETRIES = 10
"""Windows drawn again before one with too much of a class is taken; both papers' code has the same number."""


@dataclass(frozen=True, kw_only=True)
class RandomCrop(Checked):
    """Cut a training window at a uniform offset; a side shorter than the window stays as it is, and is padded last.

    Attributes:
        size: (height, width) of the window in pixels.
        cat_max_ratio: a window is taken when it shows at least two classes and the largest fills less than this share
            of its labelled pixels; after ten more draws the last window is taken. 1 accepts every window.
        rare: probability that the window is laid around a pixel of a rare class, where the photo shows one: one of
            these classes is drawn, each alike, and then one of its pixels. Such a window is taken as it is.
        rarer_than: share of all labelled training pixels below which a class is rare.
    """

    size: Annotated[tuple[int, int], Within(above=0, pixels=MAX_PIXELS)]
    cat_max_ratio: Share = 0.75
    rare: Share = 0.0
    rarer_than: Share = 0.02

    def __call__(self, image: Image, mask: Mask, context: Context) -> tuple[Image, Mask]:
        if self.rare and context.rng.random() < self.rare:  # without the option nothing is drawn for it
            around = self._window_of_rare(mask, context)
            if around is not None:
                return image[around], mask[around]
        window = self._window(mask, context.rng)
        if self.cat_max_ratio < 1.0:
            for _ in range(RETRIES):
                if self._is_varied(mask[window], context.ignore_index):
                    break
                window = self._window(mask, context.rng)
        return image[window], mask[window]

    def _window(self, mask: Mask, rng: np.random.Generator) -> tuple[slice, slice]:
        (height, width), (crop_height, crop_width) = mask.shape, self.size
        top = int(rng.integers(0, max(height - crop_height, 0) + 1))
        left = int(rng.integers(0, max(width - crop_width, 0) + 1))
        return slice(top, top + crop_height), slice(left, left + crop_width)

    def _window_of_rare(self, mask: Mask, context: Context) -> tuple[slice, slice] | None:
        """Draw a window around a pixel of a rare class that is there; None where there is none."""
        rng, pixels_K = context.rng, context.pixels_K
        rare = np.flatnonzero((pixels_K > 0) & (pixels_K < self.rarer_than * pixels_K.sum()))
        there = rare[np.bincount(mask.ravel(), minlength=context.ignore_index + 1)[rare] > 0]
        if not len(there):
            return None
        places = np.flatnonzero(mask == rng.choice(there))
        row, column = np.unravel_index(int(rng.choice(places)), mask.shape)
        first = [
            int(rng.integers(max(int(at) - crop + 1, 0), min(int(at), max(side - crop, 0)) + 1))
            for at, side, crop in zip((row, column), mask.shape, self.size, strict=True)
        ]
        return slice(first[0], first[0] + self.size[0]), slice(first[1], first[1] + self.size[1])

    def _is_varied(self, mask: Mask, ignore_index: int) -> bool:
        counts = np.bincount(mask.ravel(), minlength=ignore_index + 1)
        counts[ignore_index] = 0
        return bool(np.count_nonzero(counts) > 1 and counts.max() / counts.sum() < self.cat_max_ratio)
