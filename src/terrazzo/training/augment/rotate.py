"""Random rotation about the centre."""

from __future__ import annotations

from dataclasses import dataclass

import cv2

from terrazzo.fields import NotNegative, Share
from terrazzo.training.augment.step import Context, Image, Mask
from terrazzo.training.augment.warp import warped
from terrazzo.training.rows import Checked

__all__ = ["RandomRotate"]


@dataclass(frozen=True, kw_only=True)
class RandomRotate(Checked):
    """Turn about the centre; the image is mirrored beyond its border, and the mask is unlabelled there.

    Attributes:
        p: probability.
        degrees: largest angle, to either side.
    """

    p: Share = 0.5
    degrees: NotNegative = 10.0

    def __call__(self, image: Image, mask: Mask, context: Context) -> tuple[Image, Mask]:
        if context.rng.random() < self.p:
            height, width = mask.shape
            angle = context.rng.uniform(-self.degrees, self.degrees)
            turn = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1.0)
            return warped(image, mask, turn, context.ignore_index)
        return image, mask
