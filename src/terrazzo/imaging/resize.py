"""Resizing of 8-bit RGB images, with the pixels that OpenCV or Pillow gives.

Networks are sensitive to it. A plain bilinear filter looks at four pixels however much the image shrinks, so that fine
texture turns into noise (aliasing); an antialiased filter is as wide as the pixels that it replaces. mmsegmentation
trains with OpenCV's plain one, transformers with Pillow's antialiased ones.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

__all__ = ["INTERPOLATIONS", "Interpolation", "resize_image"]

Interpolation: TypeAlias = Literal["nearest", "bilinear", "bicubic", "lanczos", "area", "hamming"]
INTERPOLATIONS: tuple[Interpolation, ...] = get_args(Interpolation)

_PILLOWS = {"bilinear": "BILINEAR", "bicubic": "BICUBIC", "lanczos": "LANCZOS", "area": "BOX", "hamming": "HAMMING"}
_OPENCVS = {
    "nearest": "INTER_NEAREST_EXACT",
    "bilinear": "INTER_LINEAR",
    "bicubic": "INTER_CUBIC",
    "lanczos": "INTER_LANCZOS4",
}


def resize_image(
    image_HW3: NDArray[np.uint8], size: tuple[int, int], interpolation: Interpolation, antialias: bool
) -> NDArray[np.uint8]:
    """Return the image at another size; the same array where it has that size.

    Args:
        image_HW3: the image.
        size: (height, width) to give it.
        interpolation: the filter. "nearest" takes the pixel at the centre, "area" averages what a pixel covers; both
            are the same with and without `antialias`.
        antialias: Pillow's filter, which widens when the image shrinks, instead of OpenCV's, which does not.
    """
    height, width = size
    if size == image_HW3.shape[:2]:
        return image_HW3
    # Where nothing shrinks the two bilinear filters are the same to one grey level, and OpenCV's is ten times as fast.
    shrinks = height < image_HW3.shape[0] or width < image_HW3.shape[1]
    same = interpolation == "nearest" or (interpolation == "bilinear" and not shrinks)
    if interpolation in _OPENCVS and (same or not antialias):
        import cv2

        flag = getattr(cv2, _OPENCVS[interpolation])
        return np.asarray(cv2.resize(image_HW3, (width, height), interpolation=flag), dtype=np.uint8)
    from PIL import Image

    resampling = Image.Resampling[_PILLOWS[interpolation]]
    return np.asarray(Image.fromarray(image_HW3).resize((width, height), resampling))
