"""Outlines in documents of any content."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from terrazzo.data.sources.geojson import WGS84
from terrazzo.data.sources.region import parse_region
from terrazzo.errors import ConfigError, ImageError

SQUARE = {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]]}


@pytest.mark.parametrize(
    "document",
    [
        {"type": "FeatureCollection", "features": 5},
        {"type": "GeometryCollection", "geometries": {"type": "Polygon"}},
        {"type": "Polygon", "coordinates": [[[True, False], [True, True]]]},
        {"type": "Polygon", "coordinates": "x"},
        {"type": 5},
        [SQUARE],
    ],
)
def test_no_outline(document: Any, tmp_path: Path) -> None:
    (tmp_path / "x.geojson").write_text(json.dumps(document))
    with pytest.raises(ConfigError, match=r"holds no polygon|cannot be read") as caught:
        parse_region(str(tmp_path / "x.geojson"))
    assert caught.value.code == "raster-region"


@pytest.mark.parametrize("crs", [5, [], {"properties": 5}, {"properties": {"name": 5}}, None])
def test_a_reference_system_that_is_none(crs: Any, tmp_path: Path) -> None:
    (tmp_path / "x.geojson").write_text(json.dumps({**SQUARE, "crs": crs}))
    assert parse_region(str(tmp_path / "x.geojson")).crs == WGS84


def test_places_that_are_nowhere(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    outline = {"type": "Polygon", "coordinates": [[[1e308, 1e308], [-1e308, 1e308], [0, -1e308], [1e308, 1e308]]]}
    (tmp_path / "x.geojson").write_text(json.dumps(outline))
    options = {"crs": "EPSG:32633", "transform": rasterio.Affine(1, 0, 5e5, 0, -1, 5e6), "dtype": "uint8"}
    region = parse_region(str(tmp_path / "x.geojson"))
    with (
        rasterio.open(tmp_path / "x.tif", "w", driver="GTiff", width=8, height=8, count=1, **options) as raster,
        pytest.raises(ImageError, match="cannot be brought from") as caught,
    ):
        region.placed(raster)
    assert caught.value.code == "raster-region"
