"""Query points on an image: checked if the user gives them, else chosen from the predicted mask."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from terrazzo.errors import ConfigError

__all__ = ["MOST_POINTS", "Point", "check_points", "choose_points"]

Point = tuple[int, int]
"""Column x and row y of a pixel, from 0 at the photo's upper left."""

MOST_POINTS = 20  # each is a row of the picture
CHOSEN = 5
SMALLEST_SHARE = 0.005  # of the image, that a class must fill to get a point


def check_points(points: Sequence[Point], height: int, width: int, image: str) -> None:
    """Refuse points that are not on the image, and more points than a picture can show.

    Raises:
        ConfigError: naming the first point at fault.
    """
    if not 1 <= len(points) <= MOST_POINTS:
        raise ConfigError(
            f"{len(points)} points are given", fix=f"give 1 to {MOST_POINTS} of them", code="explain-points"
        )
    for x, y in points:
        if not (0 <= x < width and 0 <= y < height):
            raise ConfigError(
                f"the point {x},{y} is not on {image}, which is {width} x {height} pixels",
                fix=f"give x from 0 to {width - 1} and y from 0 to {height - 1}",
                code="explain-point",
            )


def choose_points(mask_HW: NDArray[np.integer]) -> list[Point]:
    """Choose the image's centre, and the place farthest inside each of the largest classes, largest first.

    Args:
        mask_HW: the predicted classes.
    """
    import cv2

    height, width = mask_HW.shape
    points = [(width // 2, height // 2)]
    pixels = np.bincount(mask_HW.ravel())
    for k in np.argsort(-pixels, kind="stable"):
        if len(points) == CHOSEN or pixels[k] < SMALLEST_SHARE * mask_HW.size:
            break
        # A border of zeros, since the image's edge is an edge of the class too.
        inside = cv2.distanceTransform(np.pad((mask_HW == k).astype(np.uint8), 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
        row, column = np.unravel_index(int(inside.argmax()), mask_HW.shape)
        if (point := (int(column), int(row))) not in points:
            points.append(point)
    return points
