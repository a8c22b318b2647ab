"""Polygons of a georeferenced mask as GeoJSON: connected areas of one class, with their area in the mask's units."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from terrazzo.atomic import replacing
from terrazzo.data.sources.raster import crs_name, rasterio_env
from terrazzo.labels.spec import LabelSpec
from terrazzo.marks import mark_files

__all__ = ["write_polygons"]

SIDES = 4  # pixels are connected by their sides, and not by their corners


def write_polygons(mask: Path, path: Path, labels: LabelSpec) -> None:
    """Write the polygons of a mask that is a GeoTIFF, in its coordinates; their file names its reference system.

    The mask is read row by row. Outlines are in memory, so what it takes grows with how ragged the areas are.

    Raises:
        OutputError: the file cannot be written.
    """
    with replacing(path) as partial:
        with rasterio_env(), warnings.catch_warnings(), open(partial, "w", encoding="utf-8") as file:
            import rasterio

            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            with rasterio.open(mask) as dataset:
                file.write('{\n"type": "FeatureCollection",\n')
                if (name := crs_name(dataset.crs)) is not None:
                    crs = {"type": "name", "properties": {"name": _urn(name)}}
                    file.write(f'"crs": {json.dumps(crs)},\n')
                file.write('"features": [')
                for number, feature in enumerate(_features(dataset, labels)):
                    file.write((",\n" if number else "\n") + json.dumps(feature, ensure_ascii=False))
                file.write("\n]\n}\n")
        mark_files([partial], "predict")


def _features(dataset: Any, labels: LabelSpec) -> Iterator[dict[str, Any]]:
    import rasterio
    from rasterio.features import shapes

    of_pixel = abs(dataset.transform.determinant)
    for outline, value in shapes(rasterio.band(dataset, 1), connectivity=SIDES, transform=dataset.transform):
        index = int(value)
        if index >= labels.num_classes:
            continue  # a gap
        shell, *holes = outline["coordinates"]
        area = _area(shell) - sum(map(_area, holes))
        properties = {
            "class": labels.names[index],
            "index": index,
            "pixels": round(area / of_pixel),
            "area": float(f"{area:.12g}"),
        }
        yield {"type": "Feature", "properties": properties, "geometry": outline}


def _area(ring: list[tuple[float, float]]) -> float:
    """Of a closed ring, by the shoelace formula around its first point: coordinates of maps have many digits."""
    x0, y0 = ring[0]
    moved = [(x - x0, y - y0) for x, y in ring]
    return abs(sum(x * b - a * y for (x, y), (a, b) in pairwise(moved))) / 2


def _urn(name: str) -> str:
    """The name of a reference system as GeoJSON readers know it."""
    authority, colon, code = name.partition(":")
    return f"urn:ogc:def:crs:{authority}::{code}" if colon and code.isalnum() else name
