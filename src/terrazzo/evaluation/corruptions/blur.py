"""Blur of lenses and movement.

Departures. Glass: each pixel takes a neighbour's colour, at once for all pixels; by definition neighbours are exchanged
one after the other. Motion: half a Gaussian of whole pixels along a line, as ImageMagick's motion blur is described.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from terrazzo.evaluation.corruptions.pixels import as_bytes, as_floats, blurred, blurred_along

__all__ = ["defocus_blur", "gaussian_blur", "glass_blur", "motion_blur"]

Photo = NDArray[np.uint8]


def gaussian_blur(image_HW3: Photo, severity: int, rng: np.random.Generator) -> Photo:
    """A Gaussian filter."""
    del rng
    return as_bytes(blurred(as_floats(image_HW3), (1, 2, 3, 4, 6)[severity - 1]))


def defocus_blur(image_HW3: Photo, severity: int, rng: np.random.Generator) -> Photo:
    """The mean over a disk, as of a lens out of focus."""
    del rng
    radius, softness = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))[severity - 1]
    reach = max(8, radius)
    side = np.arange(-reach, reach + 1)
    disk = (side[:, None] ** 2 + side**2 <= radius**2).astype(np.float32)
    width = 3 if radius <= 8 else 5
    kernel = cv2.GaussianBlur(disk / disk.sum(), (width, width), softness)
    return as_bytes(np.asarray(cv2.filter2D(as_floats(image_HW3), -1, kernel), np.float32))


def motion_blur(image_HW3: Photo, severity: int, rng: np.random.Generator) -> Photo:
    """Blur along a line in a random direction, as of a camera that moves."""
    radius, deviation = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[severity - 1]
    return as_bytes(blurred_along(as_floats(image_HW3), radius, deviation, rng.uniform(45, 135)))


def glass_blur(image_HW3: Photo, severity: int, rng: np.random.Generator) -> Photo:
    """Pixels displaced at random, as behind frosted glass."""
    deviation, most, rounds = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))[severity - 1]
    height, width = image_HW3.shape[:2]
    shuffled = as_bytes(blurred(as_floats(image_HW3), deviation))
    rows, columns = np.arange(height)[:, None], np.arange(width)
    for _ in range(rounds):
        up, left = rng.integers(-most, most, (2, height, width))  # one less than `most` to the right, as defined
        shuffled = shuffled[(rows + up).clip(0, height - 1), (columns + left).clip(0, width - 1)]
    return as_bytes(blurred(as_floats(shuffled), deviation))
