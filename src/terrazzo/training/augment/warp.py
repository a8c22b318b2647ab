"""An affine map applied to an image and its mask alike."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from terrazzo.training.augment.step import Image, Mask

__all__ = ["warped"]


def warped(image: Image, mask: Mask, matrix: NDArray[Any], ignore_index: int) -> tuple[Image, Mask]:
    """Map by a 2 x 3 matrix on (x, y), keeping the size; what comes from outside is mirrored, and unlabelled."""
    height, width = mask.shape
    moved = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return (
        np.asarray(moved, image.dtype).reshape(image.shape),
        np.asarray(
            cv2.warpAffine(mask, matrix, (width, height), flags=cv2.INTER_NEAREST, borderValue=ignore_index),
            dtype=mask.dtype,
        ),
    )
