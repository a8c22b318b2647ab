"""Random affine map: scale, shear, translation and rotation about the centre."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from terrazzo.fields import Bounds, Share, Within
from terrazzo.training.augment.step import Context, Image, Mask
from terrazzo.training.augment.warp import warped
from terrazzo.training.rows import Checked

__all__ = ["RandomAffine"]


@dataclass(frozen=True, kw_only=True)
class RandomAffine(Checked):
    """Scale, shear, turn and shift in one map; the image is mirrored beyond its border, the mask is unlabelled there.

    Attributes:
        p: probability.
        degrees: largest angle of the rotation, to either side.
        translate: largest shift, as a share of the height and of the width.
        scale: bounds of the factor, whose logarithm is uniform.
        shear: largest angle of the horizontal shear, in degrees to either side.
    """

    p: Share = 0.5
    degrees: Annotated[float, Within(at_least=0, at_most=180)] = 10.0
    translate: Share = 0.1
    scale: Bounds = (0.8, 1.25)
    shear: Annotated[float, Within(at_least=0, below=90)] = 5.0

    def __call__(self, image: Image, mask: Mask, context: Context) -> tuple[Image, Mask]:
        rng = context.rng
        if rng.random() >= self.p:
            return image, mask
        height, width = mask.shape
        scale = np.exp(rng.uniform(*np.log(self.scale)))
        angle = np.radians(rng.uniform(-self.degrees, self.degrees))
        shear = np.tan(np.radians(rng.uniform(-self.shear, self.shear)))
        shift = rng.uniform(-self.translate, self.translate, 2) * (width, height)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        linear = scale * turn @ np.array([[1.0, shear], [0.0, 1.0]])
        centre = np.array([(width - 1) / 2, (height - 1) / 2])
        return warped(image, mask, np.column_stack([linear, centre + shift - linear @ centre]), context.ignore_index)
