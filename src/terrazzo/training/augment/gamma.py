"""Random gamma: exposure and tone curves of other cameras."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from terrazzo.fields import Bounds, Share
from terrazzo.training.augment.step import Context, Image, Mask
from terrazzo.training.rows import Checked

__all__ = ["RandomGamma"]


@dataclass(frozen=True, kw_only=True)
class RandomGamma(Checked):
    """Raise the brightness of all pixels to one power, in bands of other sensors that of each value above 0.

    Attributes:
        p: probability.
        bounds: of the exponent, whose logarithm is uniform.
    """

    p: Share = 0.5
    bounds: Bounds = (0.5, 2.0)

    def __call__(self, image: Image, mask: Mask, context: Context) -> tuple[Image, Mask]:
        if context.rng.random() < self.p:
            gamma = np.exp(context.rng.uniform(*np.log(self.bounds)))
            if image.dtype == np.uint8:
                curve = (np.linspace(0.0, 1.0, 256) ** gamma * 255.0).astype(np.uint8)
                image = np.asarray(curve[image])
            else:  # below 0 there is no power to take
                image = np.where(image > 0, 255 * (np.abs(image) / 255) ** np.float32(gamma), image)
        return image, mask
