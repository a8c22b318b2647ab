"""Random horizontal flip, as in both papers."""

from __future__ import annotations

from dataclasses import dataclass

from terrazzo.fields import Share
from terrazzo.training.augment.step import Context, Image, Mask
from terrazzo.training.rows import Checked

__all__ = ["RandomFlip"]


@dataclass(frozen=True, kw_only=True)
class RandomFlip(Checked):
    """Mirror left and right.

    Attributes:
        p: probability.
    """

    p: Share = 0.5

    def __call__(self, image: Image, mask: Mask, context: Context) -> tuple[Image, Mask]:
        if context.rng.random() < self.p:
            return image[:, ::-1], mask[:, ::-1]
        return image, mask
