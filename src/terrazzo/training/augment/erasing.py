"""Random erasing (Zhong et al. 2017, arXiv 1708.04896)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from terrazzo.fields import Bounds, Share
from terrazzo.training.augment.boxes import Area, random_box
from terrazzo.training.augment.step import Context, Image, Mask
from terrazzo.training.rows import Checked

__all__ = ["RandomErasing"]


@dataclass(frozen=True, kw_only=True)
class RandomErasing(Checked):
    """Fill a rectangle with noise, so that a class must be told by what is left of it.

    Attributes:
        p: probability.
        area: bounds of the rectangle's share of the image.
        aspect: bounds of its height over its width.
        labels: ``ignore`` leaves the rectangle out of the loss; ``keep`` trains the network to predict what was there.
    """

    p: Share = 0.5
    area: Area = (0.02, 0.4)
    aspect: Bounds = (0.3, 3.3)
    labels: Literal["ignore", "keep"] = "ignore"

    def __call__(self, image: Image, mask: Mask, context: Context) -> tuple[Image, Mask]:
        rng = context.rng
        if rng.random() >= self.p:
            return image, mask
        box = random_box(rng, mask.shape, self.area, self.aspect)
        image = image.copy()
        if image.dtype == np.uint8:
            image[box] = rng.integers(0, 256, image[box].shape, dtype=np.uint8)
        else:
            image[box] = rng.uniform(0, 255, image[box].shape)
        if self.labels == "ignore":
            mask = mask.copy()
            mask[box] = context.ignore_index
        return image, mask
