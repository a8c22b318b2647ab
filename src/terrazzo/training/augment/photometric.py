"""Photometric distortion (Liu et al. 2016, SSD), as in both papers' code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np

from terrazzo.fields import LARGEST, Bounds, NotNegative, Within
from terrazzo.training.augment.step import Context, Image, Mask
from terrazzo.training.rows import Checked

__all__ = ["PhotometricDistortion"]


@dataclass(frozen=True, kw_only=True)
class PhotometricDistortion(Checked):
    """Brightness, contrast, saturation and hue, each with probability one half, in the papers' order.

    Values are clipped to 0-255 and truncated to uint8 after each step. A coin decides whether contrast comes second
    or last. Where both saturation and hue change, one way to HSV and back serves both: the papers' code goes twice and
    rounds once more.

    Bands of other sensors than cameras have no hue: there brightness and contrast change alone, and nothing is clipped.

    Attributes:
        brightness: largest shift, on the 0-255 scale.
        contrast: bounds of the factor.
        saturation: bounds of the factor.
        hue: largest turn in OpenCV's half degrees (180 is the whole circle).
    """

    brightness: NotNegative = 32.0
    contrast: Bounds = (0.5, 1.5)
    saturation: Bounds = (0.5, 1.5)
    hue: Annotated[int, Within(at_least=0, below=LARGEST)] = 18

    def __call__(self, image: Image, mask: Mask, context: Context) -> tuple[Image, Mask]:
        rng = context.rng

        def coin() -> bool:
            return bool(rng.random() < 0.5)

        if coin():
            image = _affine(image, 1.0, rng.uniform(-self.brightness, self.brightness))
        contrast_early = coin()
        if contrast_early and coin():
            image = _affine(image, rng.uniform(*self.contrast), 0.0)
        saturate, turn = coin(), coin()
        if (saturate or turn) and image.dtype == np.uint8:
            hsv = np.asarray(cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2HSV), dtype=np.uint8)
            if saturate:
                hsv[..., 1] = _affine(hsv[..., 1], rng.uniform(*self.saturation), 0.0)
            if turn:
                shift = int(rng.integers(-self.hue, self.hue)) if self.hue else 0
                hsv[..., 0] = (hsv[..., 0].astype(np.int16) + shift) % 180
            image = np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), dtype=np.uint8)
        if not contrast_early and coin():
            image = _affine(image, rng.uniform(*self.contrast), 0.0)
        return image, mask


def _affine(image: Image, factor: float, shift: float) -> Image:
    """Return factor * image + shift; of 8 bits clipped to 0-255 and truncated, through a table of the 256 values."""
    if image.dtype != np.uint8:
        return np.asarray(image * np.float32(factor) + np.float32(shift))
    table = np.clip(np.arange(256, dtype=np.float32) * factor + shift, 0, 255).astype(np.uint8)
    return np.asarray(table[image])
