"""Objects given by outlines or run lengths, painted into one mask of class indices.

A pixel belongs to a polygon where its centre is inside, by the even-odd rule; the pixel in column c and row r covers
[c, c + 1) x [r, r + 1). An object of several polygons is their union. Where objects overlap, `paint` puts the one with
fewer pixels on top, since what is in front of something hides only a part of it; of equally large ones the later. What
is to be ignored lies under all of them. `stack` is for tools that keep an order of layers. Pixels of no object are
background, class 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from terrazzo.data.problems import file_error
from terrazzo.labels.spec import BACKGROUND_NAMES, LabelSpec, Target

__all__ = [
    "BACKGROUND",
    "IGNORED",
    "Region",
    "bitmap_region",
    "decode_runs",
    "disc",
    "draw",
    "object_labels",
    "paint",
    "rectangle",
    "region_of",
    "stack",
    "unpack_runs",
]

Points: TypeAlias = NDArray[np.floating[Any]]  # (N, 2) of x, y in pixels

BACKGROUND = 0
MOST_CROSSINGS = 1 << 23  # of rows by the edges of one polygon, which the borders of no real object need
IGNORED = 65535  # what painted masks hold where nothing is to be learnt


@dataclass(frozen=True)
class Region:
    """The pixels of one object: an array of truth values (h, w) whose first pixel is at (top, left)."""

    top: int
    left: int
    inside_hw: NDArray[np.bool_]


def object_labels(names: Iterable[str]) -> LabelSpec:
    """Return the classes of a painted mask: the background and the objects', whose names are in order.

    A class called background is the background; objects of one name are one class.

    Raises:
        LabelError: names that cannot be used.
    """
    objects = [name for name in dict.fromkeys(names) if name.strip().casefold() not in BACKGROUND_NAMES]
    classes = ["background", *objects]
    id_map: list[tuple[int, Target]] = [(k, k) for k in range(len(classes))]
    return LabelSpec.from_names(classes, id_map=[*id_map, (IGNORED, "ignore")])


def paint(objects: Sequence[tuple[int, Region]], height: int, width: int) -> NDArray[np.uint16]:
    """Paint (value, region) pairs over a background.

    Returns:
        (height, width) values.
    """
    order = sorted(objects, key=lambda item: (item[0] != IGNORED, -np.count_nonzero(item[1].inside_hw)))
    return stack(order, height, width)


def stack(objects: Iterable[tuple[int, Region]], height: int, width: int) -> NDArray[np.uint16]:
    """Paint (value, region) pairs over a background in their own order, the later over the earlier.

    For tools that keep an order of layers, in which people put what is in front last.

    Returns:
        (height, width) values.
    """
    mask_HW = np.full((height, width), BACKGROUND, np.uint16)
    for value, region in objects:
        h, w = region.inside_hw.shape
        mask_HW[region.top : region.top + h, region.left : region.left + w][region.inside_hw] = value
    return mask_HW


def draw(
    file: Path, what: str, items: Iterable[Any], region_of: Callable[[Any], tuple[int, Region] | None], *, fix: str
) -> list[tuple[int, Region]]:
    """Make a (value, region) pair of each item of a document, and leave out those without an area.

    Raises:
        DatasetError: `region_of` raised ValueError for an item; the message has its number.
    """
    drawn = []
    for number, item in enumerate(items, 1):
        try:
            drawn.append(region_of(item))
        except ValueError as error:
            message = f"{what} {number} cannot be read: {error}"
            raise file_error(file, message, fix=fix, code="outline-damaged") from error
    return [found for found in drawn if found is not None]


def rectangle(corners_22: Points, height: int, width: int) -> Region:
    """Fill the rectangle between two opposite corners, in any order."""
    (left, top), (right, bottom) = corners_22.min(0), corners_22.max(0)
    return region_of([np.array([[left, top], [right, top], [right, bottom], [left, bottom]])], height, width)


def disc(center_2: Points, radius: float, height: int, width: int) -> Region:
    """Fill a circle: the pixels whose centres are inside."""
    reach = np.array([center_2 - radius, center_2 + radius])
    top, left, bottom, right = _pixel_box(reach, height, width)
    y_h = np.arange(top, max(bottom, top))[:, None] + 0.5 - center_2[1]
    x_w = np.arange(left, max(right, left))[None] + 0.5 - center_2[0]
    return Region(top, left, x_w**2 + y_h**2 < radius**2)


def bitmap_region(inside_hw: NDArray[np.bool_], top: int, left: int, height: int, width: int) -> Region:
    """Place a bitmap, cut off at the borders of the picture."""
    first_row, first_column = max(-top, 0), max(-left, 0)
    rows, columns = max(height - max(top, 0), 0), max(width - max(left, 0), 0)
    cut_hw = inside_hw[first_row:, first_column:][:rows, :columns]
    return Region(min(max(top, 0), height), min(max(left, 0), width), cut_hw)


def region_of(polygons: Sequence[Points], height: int, width: int, *, holes: Sequence[Points] = ()) -> Region:
    """Fill the polygons of one object, as far as they lie in the picture, and leave its holes out.

    Raises:
        ValueError: a polygon whose edges run up and down too often to be filled in moderate memory.
    """
    corners = [_pixel_box(points, height, width) for points in polygons]
    top, left = (min(corner[i] for corner in corners) for i in (0, 1))
    bottom, right = (max(corner[i] for corner in corners) for i in (2, 3))
    inside_hw = np.zeros((max(bottom - top, 0), max(right - left, 0)), bool)
    for points in polygons:
        inside_hw |= _filled(points, (top, left), inside_hw.shape)
    for points in holes:
        inside_hw &= ~_filled(points, (top, left), inside_hw.shape)
    return Region(top, left, inside_hw)


def decode_runs(runs: Sequence[int] | NDArray[np.int64], height: int, width: int) -> NDArray[np.bool_]:
    """Decode run lengths, which go down the columns and begin with pixels outside, to (height, width).

    Raises:
        ValueError: they do not add up to the picture.
    """
    lengths = np.asarray(runs, np.int64)
    if lengths.ndim != 1 or (lengths < 0).any() or int(lengths.sum()) != height * width:
        raise ValueError(f"run lengths add up to {int(lengths.sum())}, not to {width} x {height} pixels")
    inside = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return np.ascontiguousarray(inside.reshape(width, height).T)


def unpack_runs(text: str) -> list[int]:
    """Unpack COCO's compressed run lengths.

    Each number is written in letters of 5 bits, the lowest first, that count from "0"; the 32 in a letter says that
    more follow, and the 16 in the last that the number is negative. From the fourth on, a number is the difference to
    the one two before it.

    Raises:
        ValueError: not such a text.
    """
    runs: list[int] = []
    number = shift = 0
    for letter in text:
        code = ord(letter) - 48
        if not 0 <= code < 64 or shift > 60:
            raise ValueError(f"run lengths hold {letter!r}")
        number |= (code & 31) << shift
        shift += 5
        if not code & 32:
            if code & 16:
                number -= 1 << shift
            runs.append(number + (runs[-2] if len(runs) > 2 else 0))
            number = shift = 0
    if shift:
        raise ValueError("run lengths end inside a number")
    return runs


def _pixel_box(points_N2: Points, height: int, width: int) -> tuple[int, int, int, int]:
    """Top, left, bottom and right of the pixels whose centres a polygon can hold."""
    limits = np.array([width, height])
    left, top = np.clip(np.ceil(points_N2.min(0) - 0.5), 0, limits)
    right, bottom = np.clip(np.ceil(points_N2.max(0) - 0.5), 0, limits)
    return int(top), int(left), int(bottom), int(right)


def _filled(points_N2: Points, corner: tuple[int, int], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Fill one polygon in a box: each edge toggles, in the rows it crosses, all pixels to its right."""
    h, w = shape
    start_N2 = points_N2.astype(np.float64) - corner[::-1]
    end_N2 = np.roll(start_N2, -1, axis=0)
    rows_N2 = np.clip(np.ceil(np.stack([start_N2[:, 1], end_N2[:, 1]], 1) - 0.5), 0, h).astype(np.int64)
    first_N, last_N = rows_N2.min(1), rows_N2.max(1)
    crossed_N = last_N - first_N
    if int(crossed_N.sum()) > MOST_CROSSINGS:
        raise ValueError(f"its edges cross {int(crossed_N.sum()):,} rows, more than the {MOST_CROSSINGS:,} allowed")
    edge_M = np.repeat(np.arange(len(start_N2)), crossed_N)
    row_M = np.arange(len(edge_M)) - np.repeat(np.cumsum(crossed_N) - crossed_N, crossed_N) + first_N[edge_M]
    (x0_M, y0_M), (x1_M, y1_M) = start_N2[edge_M].T, end_N2[edge_M].T
    x_M = x0_M + (row_M + 0.5 - y0_M) * (x1_M - x0_M) / (y1_M - y0_M)
    column_M = np.clip(np.ceil(x_M - 0.5), 0, w).astype(np.int64)
    toggles = np.bincount(row_M * (w + 1) + column_M, minlength=h * (w + 1)).reshape(h, w + 1)
    return (np.cumsum(toggles, axis=1)[:, :w] & 1).astype(bool)
