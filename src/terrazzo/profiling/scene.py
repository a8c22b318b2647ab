"""A synthetic image, for measurements without a real one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["draw_scene"]

SHAPES = 60


def draw_scene(height: int, width: int, bands: int = 3) -> NDArray[np.uint8]:
    """Return an (H, W, bands) image with smooth areas, edges and texture; the same for the same size.

    Of more than three bands, each is one of the first three again.
    """
    import cv2

    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (9, 16, 3), dtype=np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    largest = max(height // 6, 2)
    for _ in range(SHAPES):
        center = int(rng.integers(width)), int(rng.integers(height))
        color = tuple(int(value) for value in rng.integers(0, 256, 3))
        cv2.circle(image, center, int(rng.integers(min(10, largest - 1), largest)), color, -1)
    noise = rng.normal(0, 6, image.shape)
    scene: NDArray[np.uint8] = np.clip(image + noise, 0, 255).astype(np.uint8)
    return scene if bands == 3 else scene[..., np.arange(bands) % 3]
