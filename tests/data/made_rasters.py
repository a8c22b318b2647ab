"""Small georeferenced rasters, polygons and a network whose class is the brightest band."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrazzo.inference.predictor import Predictor
from terrazzo.inference.protocols import Protocol
from terrazzo.labels.spec import LabelSpec
from terrazzo.preprocess import Preprocess

UTM = "EPSG:32616"
LEFT, TOP, PIXEL = 733601.0, 3725139.0, 0.5
ABC = LabelSpec.from_names(["a", "b", "c"])
WINDOWS = Protocol("mine", window=64, stride=48, blend="linear")


def brightest(images: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.ascontiguousarray(images[:, :, ::4, ::4], np.float32)


def predictor(labels: LabelSpec = ABC, **given: Any) -> Predictor:
    return Predictor(brightest, **{"preprocess": Preprocess(), "labels": labels, "protocol": WINDOWS, **given})


def scene(height: int = 150, width: int = 110, bands: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    """Blocks of 10 x 10 pixels, (H, W, bands), without a pixel that is 0."""
    coarse = np.random.default_rng(seed).integers(1, 255, (height // 10 + 1, width // 10 + 1, bands), dtype=np.uint8)
    return coarse.repeat(10, 0).repeat(10, 1)[:height, :width]


def write(path: Path, values: NDArray[Any], top: int = 0, left: int = 0, **profile: Any) -> Path:
    """Write (H, W, C) or (H, W) numbers whose first pixel lies in this row and column of the grid."""
    import rasterio

    bands = values[None] if values.ndim == 2 else np.moveaxis(values, -1, 0)
    place = rasterio.Affine(PIXEL, 0, LEFT + PIXEL * left, 0, -PIXEL, TOP - PIXEL * top)
    count, height, width = bands.shape
    given = {"crs": UTM, "transform": place, "tiled": True, "blockxsize": 64, "blockysize": 64, **profile}
    if count == 3:
        given.setdefault("photometric", "rgb")
    path.parent.mkdir(parents=True, exist_ok=True)
    size = {"height": height, "width": width, "count": count, "dtype": bands.dtype.name}
    with rasterio.open(path, "w", driver="GTiff", **size, **given) as file:
        file.write(bands)
    return path


def box(top: int, left: int, bottom: int, right: int, **properties: Any) -> dict[str, Any]:
    """A feature that covers these pixels."""
    x, y = (LEFT + PIXEL * left, LEFT + PIXEL * right), (TOP - PIXEL * top, TOP - PIXEL * bottom)
    ring = [[x[0], y[0]], [x[1], y[0]], [x[1], y[1]], [x[0], y[1]], [x[0], y[0]]]
    return {"type": "Feature", "properties": properties, "geometry": {"type": "Polygon", "coordinates": [ring]}}


def write_polygons(path: Path, features: Sequence[dict[str, Any]], crs: str = "EPSG::32616") -> Path:
    name = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:{crs}"}}
    path.write_text(json.dumps({"type": "FeatureCollection", "crs": name, "features": list(features)}))
    return path
