"""The part of a raster that is wanted: by bounds in its coordinates, or by the outlines in a GeoJSON file."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrazzo.config import read_json
from terrazzo.errors import ConfigError, ImageError
from terrazzo.text import said_by, show, shown_path

__all__ = ["PixelWindow", "Region", "parse_region"]

WGS84 = "OGC:CRS84"  # longitude and latitude: what GeoJSON holds unless it says something else
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
        """The affine transform from its columns and rows to coordinates. Versions of affine differ in `*` and `@`."""
        t = dataset.transform
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
    outlines: tuple[dict[str, Any], ...] = ()
    crs: str = WGS84

    @property
    def has_outline(self) -> bool:
        return bool(self.outlines)

    def window_in(self, dataset: Any) -> PixelWindow:
        """Return the pixels that the region touches.

        Raises:
            ImageError: it touches none (code "raster-region").
        """
        if self.bounds is None:
            corners = [point for outline in self.placed(dataset) for point in _points(outline["coordinates"])]
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

    def placed(self, dataset: Any) -> list[dict[str, Any]]:
        """The outlines in a raster's coordinates.

        Raises:
            ImageError: the raster does not say its reference system, or the outlines do not fit into it.
        """
        from rasterio.errors import RasterioError
        from rasterio.warp import transform_geom

        if dataset.crs is None:
            raise ImageError(
                "it does not say its coordinate reference system, so that an outline has no place in it",
                fix="give bounds in its own coordinates, as in --region left,bottom,right,top; or gdal_edit.py -a_srs",
                code="raster-region",
            )
        try:
            return [transform_geom(self.crs, dataset.crs, outline) for outline in self.outlines]
        except (RasterioError, ValueError) as error:
            raise ImageError(
                f"the outline cannot be brought from {show(self.crs)} into its coordinates: {said_by(error)}",
                fix="save the outline in longitude and latitude (EPSG:4326)",
                code="raster-region",
            ) from error


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
    document = read_json(path, code="raster-region")
    outlines = tuple(_polygons(document))
    if not outlines:
        raise _wrong(f"{shown_path(path)} holds no polygon", "save the outline as a polygon in GeoJSON")
    crs: Any = document.get("crs") or {}
    name = (crs.get("properties") or {}).get("name") if isinstance(crs, dict) else None
    return Region(outlines=outlines, crs=name if isinstance(name, str) else WGS84)


def _numbers(text: str) -> tuple[float, float, float, float] | None:
    try:
        left, bottom, right, top = (float(number) for number in text.split(","))
    except ValueError:
        return None
    return (left, bottom, right, top) if all(map(math.isfinite, (left, bottom, right, top))) else None


def _polygons(document: Any) -> Iterator[dict[str, Any]]:
    """The polygons in a GeoJSON object of any kind, which have at least one point with two coordinates each."""
    if not isinstance(document, dict):
        return
    for part in document.get("features") or document.get("geometries") or []:
        yield from _polygons(part)
    if document.get("type") == "Feature":
        yield from _polygons(document.get("geometry"))
    if document.get("type") in ("Polygon", "MultiPolygon") and _points(document.get("coordinates")):
        yield {"type": document["type"], "coordinates": document["coordinates"]}


def _points(coordinates: Any) -> list[tuple[float, ...]]:
    """All points of nested lists of coordinates."""
    if not isinstance(coordinates, (list, tuple)):
        return []
    if len(coordinates) >= 2 and all(isinstance(number, (int, float)) for number in coordinates):
        return [tuple(coordinates)]
    return [point for part in coordinates for point in _points(part)]


def _wrong(what: str, fix: str) -> ConfigError:
    return ConfigError(what, fix=fix, code="raster-region")
