"""Random Gaussian blur."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from terrazzo.fields import Bounds, Share
from terrazzo.training.augment.step import Context, Image, Mask
from terrazzo.training.rows import Checked

__all__ = ["RandomBlur"]


@dataclass(frozen=True, kw_only=True)
class RandomBlur(Checked):
    """Blur with a Gaussian kernel.

    Attributes:
        p: probability.
        sigma: bounds of the uniform standard deviation in pixels.
    """

    p: Share = 0.5
    sigma: Bounds = (0.3, 1.5)

    def __call__(self, image: Image, mask: Mask, context: Context) -> tuple[Image, Mask]:
        if context.rng.random() < self.p:
            blurred = cv2.GaussianBlur(np.ascontiguousarray(image), (0, 0), context.rng.uniform(*self.sigma))
            image = np.asarray(blurred, image.dtype).reshape(image.shape)
        return image, mask
