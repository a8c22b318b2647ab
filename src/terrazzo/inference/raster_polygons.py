"""Polygons of a georeferenced mask: connected areas of one class, as GeoJSON or GeoPackage.

Outlines follow the edges of pixels, or are simplified as a coverage: borders that two areas share stay shared.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrazzo.atomic import replacing
from terrazzo.data.sources.gdal import crs_name, rasterio_env
from terrazzo.errors import MissingExtraError
from terrazzo.labels.spec import LabelSpec
from terrazzo.marks import blank_mark, mark_files

__all__ = ["require_libraries", "write_polygons"]

SIDES = 4  # pixels are connected by their sides, and not by their corners
AT_ONCE = 10_000  # polygons written to a GeoPackage together
LAYER = "polygons"


@dataclass(frozen=True)
class _Area:
    """A connected area of one class.

    Attributes:
        index: of the class.
        pixels: how many it has.
        outline: as GeoJSON has it, in the mask's coordinates.
    """

    index: int
    pixels: int
    outline: dict[str, Any]

    def properties(self, labels: LabelSpec, of_pixel: float) -> dict[str, Any]:
        area = float(f"{self.pixels * of_pixel:.12g}")
        return {"class": labels.names[self.index], "index": self.index, "pixels": self.pixels, "area": area}


def require_libraries(is_geopackage: bool, simplify: float) -> None:
    """Make sure of what polygons are written with, before any work is done.

    Raises:
        MissingExtraError: a library is not installed.
    """
    if simplify:
        _import("shapely")
    if is_geopackage:
        _import("pyogrio")
        _import("shapely")


def write_polygons(mask: Path, path: Path, labels: LabelSpec, simplify: float = 0.0) -> None:
    """Write the polygons of a mask that is a GeoTIFF, in its coordinates; their file names its reference system.

    The mask is read row by row. Outlines are in memory, so what it takes grows with how ragged the areas are.

    Args:
        mask: the GeoTIFF.
        path: a file that ends in ``.gpkg``, or one of GeoJSON.
        labels: the classes.
        simplify: leave out what is smaller than about this, in the units of the coordinates.

    Raises:
        OutputError: the file cannot be written.
        MissingExtraError: as `require_libraries`.
    """
    with replacing(path) as partial:
        with rasterio_env(), warnings.catch_warnings():
            import rasterio

            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            with rasterio.open(mask) as dataset:
                areas = _simplified(dataset, labels, simplify) if simplify else _areas(dataset, labels)
                write = _write_geopackage if path.suffix == ".gpkg" else _write_geojson
                write(partial, areas, labels, crs_name(dataset.crs), abs(dataset.transform.determinant))
        mark_files([partial], "predict")


def _areas(dataset: Any, labels: LabelSpec) -> Iterator[_Area]:
    import rasterio
    from rasterio.features import shapes

    of_pixel = abs(dataset.transform.determinant)
    for outline, value in shapes(rasterio.band(dataset, 1), connectivity=SIDES, transform=dataset.transform):
        if int(value) < labels.num_classes:  # others are gaps
            shell, *holes = outline["coordinates"]
            yield _Area(int(value), round((_area(shell) - sum(map(_area, holes))) / of_pixel), outline)


def _simplified(dataset: Any, labels: LabelSpec, tolerance: float) -> Iterator[_Area]:
    """The areas with simplified outlines, which is done in pixels: there corners are whole numbers.

    Each outline first gets a corner at every pixel, so that areas have their common border's corners in common.
    """
    shapely = _import("shapely")
    import rasterio
    from rasterio.features import shapes

    found = list(shapes(rasterio.band(dataset, 1), connectivity=SIDES, transform=dataset.transform))
    placed = np.array([shapely.geometry.shape(outline) for outline, _ in found], object)
    polygons = shapely.transform(placed, lambda xy_N2: np.rint(_moved(xy_N2, ~dataset.transform)))
    in_pixels = tolerance / math.sqrt(abs(dataset.transform.determinant))
    simple = shapely.coverage_simplify(shapely.segmentize(polygons, 1.0), in_pixels)
    simple = shapely.transform(simple, lambda xy_N2: _moved(xy_N2, dataset.transform))
    for (_, value), polygon, outline in zip(found, polygons, simple, strict=True):
        if int(value) < labels.num_classes and not outline.is_empty:
            yield _Area(int(value), round(polygon.area), shapely.geometry.mapping(outline))


def _moved(xy_N2: NDArray[np.float64], t: Any) -> NDArray[np.float64]:
    """Points under an affine transform."""
    x, y = xy_N2.T
    return np.stack([t.a * x + t.b * y + t.c, t.d * x + t.e * y + t.f], axis=1)


def _write_geojson(path: Path, areas: Iterator[_Area], labels: LabelSpec, crs: str | None, of_pixel: float) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write('{\n"type": "FeatureCollection",\n')
        if crs is not None:
            file.write(f'"crs": {json.dumps({"type": "name", "properties": {"name": _urn(crs)}})},\n')
        file.write('"features": [')
        for number, area in enumerate(areas):
            feature = {"type": "Feature", "properties": area.properties(labels, of_pixel), "geometry": area.outline}
            file.write((",\n" if number else "\n") + json.dumps(feature, ensure_ascii=False))
        file.write("\n]\n}\n")


def _write_geopackage(path: Path, areas: Iterator[_Area], labels: LabelSpec, crs: str | None, of_pixel: float) -> None:
    shapely, pyogrio = _import("shapely"), _import("pyogrio")
    fields = ["class", "index", "pixels", "area"]
    kinds: dict[str, Any] = {"class": object, "index": np.int32, "pixels": np.int64, "area": np.float64}
    is_first = True
    while (some := list(islice(areas, AT_ONCE))) or is_first:
        geometry = np.array([shapely.to_wkb(shapely.geometry.shape(area.outline)) for area in some], object)
        rows = [area.properties(labels, of_pixel) for area in some]
        values = [np.array([row[name] for row in rows], kinds[name]) for name in fields]
        about = {"layer_options": {"DESCRIPTION": blank_mark("predict")}} if is_first else {"append": True}
        pyogrio.raw.write(
            path, geometry, values, fields, geometry_type="Polygon", crs=crs, driver="GPKG", layer=LAYER, **about
        )
        is_first = False


def _import(name: str) -> Any:
    try:
        if name == "shapely":
            import shapely.geometry

            return shapely
        import pyogrio.raw

        return pyogrio
    except ImportError as error:
        raise MissingExtraError(name, "geo") from error


def _area(ring: list[tuple[float, float]]) -> float:
    """Of a closed ring, by the shoelace formula around its first point: coordinates of maps have many digits."""
    x0, y0 = ring[0]
    moved = [(x - x0, y - y0) for x, y in ring]
    return abs(sum(x * b - a * y for (x, y), (a, b) in pairwise(moved))) / 2


def _urn(name: str) -> str:
    """The name of a reference system as GeoJSON readers know it."""
    authority, colon, code = name.partition(":")
    return f"urn:ogc:def:crs:{authority}::{code}" if colon and code.isalnum() else name
