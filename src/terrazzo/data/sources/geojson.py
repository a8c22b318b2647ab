"""Polygons of a GeoJSON document, and their place in a raster's coordinates."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from terrazzo.config import Error, read_json
from terrazzo.errors import ConfigError, ImageError
from terrazzo.text import said_by, show, shown_path

__all__ = ["Outline", "Outlines", "placed", "points_of", "read_outlines"]

Outline: TypeAlias = "dict[str, Any]"
"""A polygon, or several as one, as GeoJSON has them."""

WGS84 = "OGC:CRS84"  # longitude and latitude: what GeoJSON holds unless it says something else
MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class Outlines:
    """The polygons of a document.

    Attributes:
        polygons: each with the properties of its feature.
        crs: the reference system that the document names, else longitude and latitude.
    """

    polygons: tuple[tuple[Mapping[str, Any], Outline], ...]
    crs: str


def read_outlines(path: Path, *, error: Error = ConfigError, code: str) -> Outlines:
    """Read the polygons of a GeoJSON file, which may be none.

    Raises:
        TerrazzoError: of the class `error`: the file cannot be read, is not JSON, or has a polygon without rings.
    """
    document = read_json(path, error=error, code=code, most_bytes=MOST_BYTES)
    crs: Any = document.get("crs") if isinstance(document, dict) else None
    for key in ("properties", "name"):
        crs = crs.get(key) if isinstance(crs, dict) else None
    try:
        return Outlines(tuple(_polygons(document, {})), crs if isinstance(crs, str) else WGS84)
    except ValueError as problem:
        message = f"{shown_path(path)}: a polygon cannot be read: {problem}"
        raise error(message, fix="save it again as GeoJSON, with rings of points", code=code) from problem


def placed(outlines: Sequence[Outline], crs: str, dataset: Any) -> list[Outline]:
    """Bring outlines into a raster's coordinates.

    Args:
        outlines: in the coordinates of `crs`.
        crs: the name of a reference system.
        dataset: the open raster.

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
        return [transform_geom(crs, dataset.crs, outline) for outline in outlines]
    except Exception as error:
        of_gdal = type(error).__module__.startswith("rasterio.")  # whose own failures have classes of their own
        if not of_gdal and not isinstance(error, (RasterioError, ValueError)):
            raise
        raise ImageError(
            f"the outline cannot be brought from {show(crs)} into its coordinates: {said_by(error)}",
            fix="save the outline in longitude and latitude (EPSG:4326)",
            code="raster-region",
        ) from error


def points_of(coordinates: Any) -> list[tuple[float, ...]]:
    """Return all points of nested lists of coordinates."""
    if not isinstance(coordinates, (list, tuple)):
        return []
    if len(coordinates) >= 2 and all(isinstance(number, (int, float)) for number in coordinates):
        return [tuple(coordinates)]
    return [point for part in coordinates for point in points_of(part)]


def _polygons(document: Any, properties: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Outline]]:
    """The polygons in a GeoJSON object of any kind.

    Raises:
        ValueError: one has something else than rings of three points or more.
    """
    if not isinstance(document, dict):
        return
    for key in ("features", "geometries"):
        parts = document.get(key)
        for part in parts if isinstance(parts, list) else ():
            yield from _polygons(part, properties)
    if document.get("type") == "Feature":
        own = document.get("properties")
        yield from _polygons(document.get("geometry"), own if isinstance(own, dict) else {})
    if document.get("type") in ("Polygon", "MultiPolygon"):
        coordinates = document.get("coordinates")
        for polygon in [coordinates] if document["type"] == "Polygon" else _list(coordinates):
            for ring in _list(polygon):
                if len(_list(ring)) < 3 or not all(map(_is_point, ring)):
                    raise ValueError(f"a ring is {show(ring)}")
        if points_of(coordinates):
            yield properties, {"type": document["type"], "coordinates": coordinates}


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"it has {show(value)} in place of a list")
    return value


def _is_point(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) >= 2
        and all(type(number) in (int, float) and math.isfinite(number) for number in value[:2])
    )
