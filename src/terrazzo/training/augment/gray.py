"""Random grayscale: the colour is removed, so that the network learns from shape."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from terrazzo.fields import Share
from terrazzo.training.augment.step import Context, Image, Mask
from terrazzo.training.rows import Checked

__all__ = ["RandomGray"]


@dataclass(frozen=True, kw_only=True)
class RandomGray(Checked):
    """Replace each colour by its grey value. Left out where images are not red, green and blue.

    Attributes:
        p: probability.
    """

    p: Share = 0.1

    def __call__(self, image: Image, mask: Mask, context: Context) -> tuple[Image, Mask]:
        if context.rng.random() < self.p:
            gray = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
            image = np.repeat(gray[..., None], 3, axis=2)
        return image, mask
