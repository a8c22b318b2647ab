"""Copy-paste of rare classes (after Ghiasi et al. 2021, arXiv 2012.07177)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from terrazzo.fields import Share
from terrazzo.training.augment.step import Context, Image, Mask
from terrazzo.training.rows import Checked

__all__ = ["CopyPaste"]


@dataclass(frozen=True, kw_only=True)
class CopyPaste(Checked):
    """Paste the pixels of a rare class from another training photo at a random place.

    One of the rare classes is drawn, each alike, and then a photo, the likelier the more of the class it shows. Before
    `crop` all of the class's pixels in that photo are there to be pasted; after it, those in a window.

    Attributes:
        p: probability.
        rarer_than: share of all labelled training pixels below which a class is rare.
    """

    p: Share = 0.5
    rarer_than: Share = 0.02

    def __call__(self, image: Image, mask: Mask, context: Context) -> tuple[Image, Mask]:
        rng, pixels_K = context.rng, context.pixels_K
        if rng.random() >= self.p:
            return image, mask
        rare = np.flatnonzero((pixels_K > 0) & (pixels_K < self.rarer_than * pixels_K.sum()))
        if not len(rare):
            return image, mask
        chosen = int(rng.choice(rare))
        pixels_N = context.pixels_NK[:, chosen]
        other_image, other_mask = context.other(int(rng.choice(len(pixels_N), p=pixels_N / pixels_N.sum())))
        pasted = other_mask == chosen
        if not pasted.any():  # a step before this one has lost it
            return image, mask
        rows, columns = np.flatnonzero(pasted.any(axis=1)), np.flatnonzero(pasted.any(axis=0))
        from_rows, to_rows = _placed(rng, rows[0], rows[-1] + 1, mask.shape[0])
        from_columns, to_columns = _placed(rng, columns[0], columns[-1] + 1, mask.shape[1])
        pasted = pasted[from_rows, from_columns]
        image, mask = image.copy(), mask.copy()
        image[to_rows, to_columns][pasted] = other_image[from_rows, from_columns][pasted]
        mask[to_rows, to_columns][pasted] = chosen
        return image, mask


def _placed(rng: np.random.Generator, first: int, end: int, side: int) -> tuple[slice, slice]:
    """Draw where a stretch of rows or columns goes on a side: inside of it, or over all of it where it is longer."""
    length = int(end) - int(first)
    if length <= side:
        start = int(rng.integers(0, side - length + 1))
        return slice(int(first), int(end)), slice(start, start + length)
    begin = int(first) + int(rng.integers(0, length - side + 1))
    return slice(begin, begin + side), slice(0, side)
