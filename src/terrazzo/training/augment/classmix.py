"""ClassMix (Olsson et al. 2021, arXiv 2007.07936), with the masks that people drew."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from terrazzo.fields import Share
from terrazzo.training.augment.step import Context, Image, Mask
from terrazzo.training.rows import Checked

__all__ = ["ClassMix"]


@dataclass(frozen=True, kw_only=True)
class ClassMix(Checked):
    """Paste half of the classes of another training photo, each with all of its pixels, where they are there.

    Attributes:
        p: probability.
    """

    p: Share = 0.5

    def __call__(self, image: Image, mask: Mask, context: Context) -> tuple[Image, Mask]:
        rng = context.rng
        if rng.random() >= self.p:
            return image, mask
        other_image, other_mask = context.other(int(rng.integers(len(context.pixels_NK))))
        height, width = np.minimum(mask.shape, other_mask.shape)
        other_image, other_mask = other_image[:height, :width], other_mask[:height, :width]
        classes = np.unique(other_mask[other_mask != context.ignore_index])
        chosen = rng.choice(classes, (len(classes) + 1) // 2, replace=False)
        pasted = np.isin(other_mask, chosen)
        image, mask = image.copy(), mask.copy()
        image[:height, :width][pasted] = other_image[pasted]
        mask[:height, :width][pasted] = other_mask[pasted]
        return image, mask
