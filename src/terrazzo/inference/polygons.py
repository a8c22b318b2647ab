"""Polygons of a mask: the outlines of connected areas of one class, exactly along the edges of their pixels.

OpenCV's contours run through the centres of the outermost pixels, so an area loses half a pixel on every side and a
single pixel has no area at all. Here corners are found where the outline turns, which of the four pixels around a
corner belong to the class tells how; along each line of the grid an outline's corners then follow one another in pairs.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from terrazzo.labels.spec import LabelSpec

__all__ = ["Polygon", "class_polygons"]

Ring: TypeAlias = NDArray[np.int32]
LEFT, RIGHT, UP, DOWN = 0, 1, 0, 1


@dataclass(frozen=True, eq=False)
class Polygon:
    """A connected area of one class.

    Attributes:
        index: of the class.
        name: of the class.
        outline: (N, 2) corners x, y in pixels, clockwise as seen on a screen; (0, 0) is the image's upper left corner
            and (width, height) its lower right one. The first corner is not repeated.
        holes: the same of each hole, counter-clockwise.
        pixels: the area, without the holes.
    """

    index: int
    name: str
    outline: Ring
    holes: tuple[Ring, ...]
    pixels: int

    def to_geojson(self) -> dict[str, Any]:
        """The polygon as GeoJSON has it, with pixels for coordinates."""
        rings = [[*ring.tolist(), ring[0].tolist()] for ring in (self.outline, *self.holes)]
        return {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": rings},
            "properties": {"class": self.name, "index": self.index, "pixels": self.pixels},
        }


def class_polygons(
    mask_HW: NDArray[np.integer[Any]], labels: LabelSpec, chosen: Collection[int] | None = None, min_pixels: int = 1
) -> list[Polygon]:
    """Return the polygons of every class, or of those chosen, that have at least `min_pixels` pixels."""
    polygons = []
    present = np.flatnonzero(np.bincount(mask_HW.reshape(-1), minlength=labels.num_classes)[: labels.num_classes])
    for index in present.tolist():
        if chosen is None or index in chosen:
            polygons += _of_class(mask_HW == index, index, labels.names[index], min_pixels)
    return polygons


def _of_class(is_class_HW: NDArray[np.bool_], index: int, name: str, min_pixels: int) -> list[Polygon]:
    import cv2

    rows, columns = (np.flatnonzero(is_class_HW.any(axis=axis)) for axis in (1, 0))
    top, left = int(rows[0]), int(columns[0])
    inside = np.pad(is_class_HW[top : rows[-1] + 1, left : columns[-1] + 1], 1)
    _, area_HW = cv2.connectedComponents(inside.view(np.uint8), connectivity=4)
    outlines: dict[int, Ring] = {}
    holes: dict[int, list[Ring]] = {}
    for ring, area in _rings(inside, np.asarray(area_HW)):
        moved = ring + np.array([left, top], np.int32)
        if _signed_area(ring) > 0:
            outlines[area] = moved
        else:
            holes.setdefault(area, []).append(moved)
    polygons = []
    for area, outline in outlines.items():
        inner = tuple(holes.get(area, ()))
        pixels = _signed_area(outline) + sum(map(_signed_area, inner))
        if pixels >= min_pixels:
            polygons.append(Polygon(index, name, outline, inner, pixels))
    return polygons


def _rings(inside: NDArray[np.bool_], area_HW: NDArray[np.int32]) -> list[tuple[Ring, int]]:
    """The closed outlines in a padded mask, and the connected area that each belongs to.

    Every corner has one horizontal and one vertical side. Where two areas touch at a corner it is two corners.
    """
    quad = inside[:-1, :-1] + 2 * inside[:-1, 1:] + 4 * inside[1:, :-1] + 8 * inside[1:, 1:].astype(np.uint8)
    # By which of the four pixels around it are inside: the horizontal and vertical sides that meet in a corner.
    sides = {
        1: [(LEFT, UP)],
        2: [(RIGHT, UP)],
        4: [(LEFT, DOWN)],
        8: [(RIGHT, DOWN)],
        14: [(LEFT, UP)],
        13: [(RIGHT, UP)],
        11: [(LEFT, DOWN)],
        7: [(RIGHT, DOWN)],
        9: [(LEFT, UP), (RIGHT, DOWN)],
        6: [(RIGHT, UP), (LEFT, DOWN)],
    }
    found = []
    for pixels, corners in sides.items():
        y, x = np.nonzero(quad == pixels)
        found += [np.stack([y, x, np.full_like(y, across), np.full_like(y, along)]) for across, along in corners]
    y, x, across, along = np.concatenate(found, axis=1)
    partners = []
    for order in (np.lexsort((across, x, y)), np.lexsort((along, y, x))):
        partner = np.empty(order.size, np.intp)
        partner[order[::2]], partner[order[1::2]] = order[1::2], order[::2]
        partners.append(partner)
    beside, above = partners

    # Clockwise: with the area below, a horizontal side is walked to the right.
    ends_right = across == RIGHT
    is_below = inside[y + 1, np.where(ends_right, x + 1, x)]
    starts = ends_right == is_below  # corners that the outline leaves along their horizontal side
    next_of = np.where(starts, beside, above).tolist()
    rings, seen = [], np.zeros(y.size, np.bool_).tolist()
    for start in np.lexsort((x, y)).tolist():
        if seen[start]:
            continue
        ring, corner = [], start
        while not seen[corner]:
            seen[corner] = True
            ring.append(corner)
            corner = next_of[corner]
        at = ring[0] if starts[ring[0]] else ring[1]
        column = x[at] + 1 if ends_right[at] else x[at]
        area = int(area_HW[y[at] + 1, column] or area_HW[y[at], column])
        rings.append((np.stack([x[ring], y[ring]], axis=1).astype(np.int32), area))
    return rings


def _signed_area(ring: Ring) -> int:
    """Pixels within a ring, negative if it runs counter-clockwise on a screen."""
    x, y = ring.astype(np.int64).T
    return int((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()) // 2
