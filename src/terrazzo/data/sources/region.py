"""The part of a raster that is wanted: by bounds in its coordinates, or by the outlines in a GeoJSON file."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrazzo.data.sources.geojson import Outline, placed, points_of, read_outlines
from terrazzo.errors import ConfigError, ImageError
from terrazzo.text import show, shown_path

__all__ = ["PixelWindow", "Region", "parse_region"]

SLACK = 1e-6  # of a pixel, for bounds that were printed with few digits


@dataclass(frozen=True)
class PixelWindow:
    """A rectangle of a raster's pixels."""

    top: int
    left: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"rows {self.top} to {self.top + self.height}, columns {self.left} to {self.left + self.width}"

    def as_slices(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """The rectangle as rasterio takes it."""
        return (self.top, self.top + self.height), (self.left, self.left + self.width)

    def transform(self, dataset: Any) -> Any:
        """The affine transform from its columns and rows to coordinates."""
        return self.moved(dataset.transform)

    def moved(self, t: Any) -> Any:
        """The same, given that of the whole raster. Versions of affine differ in `*` and `@`."""
        column, row = t.a * self.left + t.b * self.top, t.d * self.left + t.e * self.top
        return type(t)(t.a, t.b, t.c + column, t.d, t.e, t.f + row)


@dataclass(frozen=True)
class Region:
    """Bounds in a raster's own coordinates, or outlines.

    Attributes:
        bounds: (left, bottom, right, top).
        outlines: polygons as GeoJSON has them, in the coordinates of `crs`.
        crs: of the outlines.
    """

    bounds: tuple[float, float, float, float] | None = None
    outlines: tuple[Outline, ...] = ()
    crs: str = ""

    @property
    def has_outline(self) -> bool:
        return bool(self.outlines)

    def window_in(self, dataset: Any) -> PixelWindow:
        """Return the pixels that the region touches.

        Raises:
            ImageError: it touches none (code "raster-region").
        """
        if self.bounds is None:
            corners = [point for outline in self.placed(dataset) for point in points_of(outline["coordinates"])]
        else:
            left, bottom, right, top = self.bounds
            corners = [(left, top), (right, top), (left, bottom), (right, bottom)]
        t = ~dataset.transform
        columns = [t.a * x + t.b * y + t.c for x, y, *_ in corners]
        rows = [t.d * x + t.e * y + t.f for x, y, *_ in corners]
        first_row, last_row = (max(math.floor(min(rows) + SLACK), 0), min(math.ceil(max(rows) - SLACK), dataset.height))
        first, last = (max(math.floor(min(columns) + SLACK), 0), min(math.ceil(max(columns) - SLACK), dataset.width))
        if first_row >= last_row or first >= last:
            b = dataset.bounds
            raise ImageError(
                "the region does not touch it",
                fix=f"give bounds within {b.left:.10g},{b.bottom:.10g},{b.right:.10g},{b.top:.10g}",
                code="raster-region",
            )
        return PixelWindow(first_row, first, last_row - first_row, last - first)

    def outside(self, dataset: Any, window: PixelWindow) -> NDArray[np.bool_]:
        """Return which pixels of a window have their centres outside of the outlines."""
        from rasterio.features import geometry_mask

        shape = window.height, window.width
        mask: NDArray[np.bool_] = geometry_mask(self.placed(dataset), shape, window.transform(dataset))
        return mask

    def placed(self, dataset: Any) -> list[Outline]:
        """The outlines in a raster's coordinates.

        Raises:
            ImageError: the raster does not say its reference system, or the outlines do not fit into it.
        """
        return placed(self.outlines, self.crs, dataset)


def parse_region(text: str) -> Region:
    """Read ``left,bottom,right,top`` in a raster's coordinates, or the outlines in a GeoJSON file.

    Raises:
        ConfigError: it is neither (code "raster-region").
    """
    numbers = _numbers(text)
    if numbers is not None:
        left, bottom, right, top = numbers
        if not (left < right and bottom < top):
            raise _wrong(f"the region {show(text)} is empty", "give left,bottom,right,top, the smaller values first")
        return Region(numbers)
    path = Path(text)
    if not os.path.lexists(path):
        raise _wrong(
            f"the region {show(text)} is neither four numbers nor a file",
            "give left,bottom,right,top in the raster's coordinates, or a GeoJSON file",
        )
    found = read_outlines(path, code="raster-region")
    if not found.polygons:
        raise _wrong(f"{shown_path(path)} holds no polygon", "save the outline as a polygon in GeoJSON")
    return Region(outlines=tuple(outline for _, outline in found.polygons), crs=found.crs)


def _numbers(text: str) -> tuple[float, float, float, float] | None:
    try:
        left, bottom, right, top = (float(number) for number in text.split(","))
    except ValueError:
        return None
    return (left, bottom, right, top) if all(map(math.isfinite, (left, bottom, right, top))) else None


def _wrong(what: str, fix: str) -> ConfigError:
    return ConfigError(what, fix=fix, code="raster-region")
