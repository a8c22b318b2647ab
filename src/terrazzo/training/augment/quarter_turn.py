"""Random quarter turn, for images that have no up and down: aerial photos, microscopy, material inspection."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from terrazzo.fields import Share
from terrazzo.training.augment.step import Context, Image, Mask
from terrazzo.training.rows import Checked

__all__ = ["RandomQuarterTurn"]


@dataclass(frozen=True, kw_only=True)
class RandomQuarterTurn(Checked):
    """Turn by 90, 180 or 270 degrees; with `flip`, each of the square's eight symmetries.

    Attributes:
        p: probability of a turn; each of the three is then drawn alike.
    """

    p: Share = 0.75

    def __call__(self, image: Image, mask: Mask, context: Context) -> tuple[Image, Mask]:
        if context.rng.random() < self.p:
            turns = int(context.rng.integers(1, 4))
            return np.rot90(image, turns), np.rot90(mask, turns)
        return image, mask
