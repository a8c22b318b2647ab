"""CutMix (Yun et al. 2019, arXiv 1905.04899; for segmentation French et al. 2020, arXiv 1906.01916)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from terrazzo.fields import Bounds, Share
from terrazzo.training.augment.boxes import Area, random_box
from terrazzo.training.augment.step import Context, Image, Mask
from terrazzo.training.rows import Checked

__all__ = ["CutMix"]


@dataclass(frozen=True, kw_only=True)
class CutMix(Checked):
    """Replace a rectangle by the same rectangle of another training photo, image and mask.

    Attributes:
        p: probability.
        area: bounds of the rectangle's share of the image.
        aspect: bounds of its height over its width.
    """

    p: Share = 0.5
    area: Area = (0.1, 0.5)
    aspect: Bounds = (0.5, 2.0)

    def __call__(self, image: Image, mask: Mask, context: Context) -> tuple[Image, Mask]:
        rng = context.rng
        if rng.random() >= self.p:
            return image, mask
        other_image, other_mask = context.other(int(rng.integers(len(context.pixels_NK))))
        # Photos smaller than the crop are padded last, at the bottom and right: both share their top left corner.
        shared = np.minimum(mask.shape, other_mask.shape)
        box = random_box(rng, shared.tolist(), self.area, self.aspect)
        image, mask = image.copy(), mask.copy()
        image[box], mask[box] = other_image[box], other_mask[box]
        return image, mask
