"""Random resize (scale jitter), as in both papers: SegFormer and SETR, section 4.1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np

from terrazzo.fields import Bounds, Within
from terrazzo.imaging.read import MAX_PIXELS
from terrazzo.training.augment.step import Context, Image, Mask
from terrazzo.training.rows import Checked

__all__ = ["RandomResize"]


@dataclass(frozen=True, kw_only=True)
class RandomResize(Checked):
    """Scale into a box that is itself scaled by a random factor, keeping the aspect ratio.

    Attributes:
        box: (long, short) side of the box in pixels at a factor of 1; null takes the photo's own size.
        ratio_range: bounds of the uniform factor.
    """

    box: Annotated[tuple[int, int] | None, Within(above=0, pixels=MAX_PIXELS)] = None
    ratio_range: Bounds = (0.5, 2.0)

    def __call__(self, image: Image, mask: Mask, context: Context) -> tuple[Image, Mask]:
        height, width = mask.shape
        long_side, short_side = self.box or (max(height, width), min(height, width))
        r = context.rng.uniform(*self.ratio_range)
        long_target = max(int(long_side * r), 1)
        short_target = max(int(short_side * r), 1)
        factor = min(
            max(long_target, short_target) / max(height, width), min(long_target, short_target) / min(height, width)
        )
        size = max(int(width * factor + 0.5), 1), max(int(height * factor + 0.5), 1)
        return (
            np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR), image.dtype).reshape(*size[::-1], -1),
            np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST), dtype=mask.dtype),
        )
