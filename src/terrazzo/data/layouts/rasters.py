"""Georeferenced rasters with labels beside them, which training sees in windows.

``NAME.tif`` (or ``.vrt``) with polygons in ``NAME.geojson``, in one folder or in folders that are named after splits.
In one folder, ``val.geojson`` outlines what is validated on; without it all windows are one split, ``all``, which
``--val`` divides. With ``val.geojson`` the labels may be a raster too, ``NAME_labels.tif``, with class indices in the
grid of ``NAME.tif``: without, such a pair is two images.

Windows do not overlap. Those of val fill the bounds of its outlines, and those of train all the rest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import closing
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from terrazzo.data.dataset import Dataset, Sample
from terrazzo.data.folders import split_folders, visible_entries
from terrazzo.data.layout import ALL, Layout, Pairs
from terrazzo.data.problems import Problem
from terrazzo.data.raster_labels import Polygons, RasterLabels, WindowMask, labels_of_polygons, open_labels
from terrazzo.data.readings import as_indices
from terrazzo.data.sources.raster import Raster, is_raster
from terrazzo.data.sources.raster_window import RasterWindow
from terrazzo.data.sources.region import PixelWindow, Region, parse_region
from terrazzo.errors import DatasetError, TerrazzoError
from terrazzo.imaging.read import ReadOptions
from terrazzo.labels.spec import LabelSpec
from terrazzo.text import shown_path

__all__ = ["NAME", "SHAPE", "find", "raster_dataset", "window_samples", "windows_of"]

NAME = "rasters with labels"
SHAPE = "scene.tif, scene.geojson"
VAL = "val.geojson"
LABELS = "labels.yaml"
SIDE = 512  # the most that a window has
LEAST = 32  # of a window's shorter side: narrower ones show too little
GRID = 32  # a window is left out where none of its pixels on a grid of this step has a measurement


def find(root: Path) -> Layout | None:
    """Recognise it by a raster with ``NAME.geojson``."""
    folders = {split: found for split, folder in split_folders(root).items() if (found := _pairs_in(folder, False))}
    if folders:
        return _layout(f"{NAME}, split by folders", root, folders, None)
    val = root / VAL
    if not (found := _pairs_in(root, val.is_file())):
        return None
    if val.is_file():
        return _layout(f"{NAME}, split by an outline", root, {"train": found, "val": found}, val)
    return _layout(f"{NAME} without splits", root, {ALL: found}, None)


def _layout(name: str, root: Path, splits: dict[str, dict[Path, Path]], val: Path | None) -> Layout:
    polygons = [labels for pairs in splits.values() for labels in pairs.values() if labels.suffix == ".geojson"]
    has_names = (root / LABELS).exists()

    def own() -> LabelSpec:
        return labels_of_polygons(dict.fromkeys(polygons))

    listing = partial(_listed, splits, val, root / LABELS if has_names else None)
    marker = next(iter(next(iter(splits.values())).values()))
    return Layout(name, root, marker, tuple(splits), listing, own if polygons and not has_names else None)


def _pairs_in(folder: Path, may_be_rasters: bool) -> dict[Path, Path]:
    """The rasters of a folder, each with its labels."""
    there = {entry.name: entry.path for entry in visible_entries(folder) if entry.is_file}
    pairs: dict[Path, Path] = {}
    for path in there.values():
        endings = (".geojson", f"_labels{path.suffix}") if may_be_rasters else (".geojson",)
        found = next((there[path.stem + ending] for ending in endings if path.stem + ending in there), None)
        if path.suffix.lower() in (".tif", ".tiff", ".vrt") and found is not None and is_raster(path):
            pairs[path] = found
    return pairs


def _listed(splits: dict[str, dict[Path, Path]], val: Path | None, names: Path | None, split: str) -> Pairs:
    samples: list[Sample] = []
    problems: list[Problem] = []
    region = None if val is None else parse_region(str(val))
    classes = None if names is None else LabelSpec.from_yaml(names).names
    for path, labels in splits[split].items():
        try:
            samples += window_samples(path, labels, classes, region=region, is_val=split == "val")
        except TerrazzoError as error:
            problems.append(Problem.from_error(error, labels if isinstance(error, DatasetError) else path))
    return samples, problems


def window_samples(
    path: Path,
    labels: Path,
    names: Sequence[str] | None = None,
    *,
    attribute: str | None = None,
    region: Region | None = None,
    is_val: bool = False,
) -> list[Sample]:
    """Return the windows of a labelled raster: all of them, or those within or without a region.

    Args:
        path: the raster.
        labels: a raster of class indices, or polygons.
        names: of the classes, where they are known.
        attribute: the property that holds the class of a polygon.
        region: divides the raster into what is learnt from and what is validated on.
        is_val: return the latter.

    Raises:
        ImageError, DatasetError: as `open_labels`, or the raster cannot be opened.
    """
    with closing(Raster(path, ReadOptions(bands=(1,)))) as raster:
        found: RasterLabels = open_labels(labels, raster, names, attribute)
        boxes = [] if region is None else _boxes(region, raster)
        windows = windows_of(raster, boxes, is_val=is_val)
    images = (RasterWindow(path, window) for window in windows)
    return [Sample(image, WindowMask(image, found)) for image in images]


def raster_dataset(path: Path, labels: Path, classes: LabelSpec, attribute: str | None = None) -> Dataset:
    """Return the windows of one raster as a data set with one split.

    Args:
        path: the raster.
        labels: a raster of class indices, or polygons.
        classes: of the labels; of polygons their names alone count.
        attribute: the property that holds the class of a polygon.

    Raises:
        ImageError, DatasetError: as `window_samples`.
    """
    samples = window_samples(path, labels, classes.names, attribute=attribute)
    if not samples:
        raise DatasetError(
            f"{shown_path(path)} holds no measurement", fix="give a raster that is not all nodata", code="dataset-empty"
        )
    if isinstance(samples[0].mask, WindowMask) and isinstance(samples[0].mask.labels, Polygons):
        classes = as_indices(classes)
    return Dataset(path.parent, ALL, classes, tuple(samples), NAME)


def _boxes(region: Region, raster: Raster) -> list[PixelWindow]:
    """The pixels within the bounds of each of a region's outlines that touches a raster."""
    boxes = []
    for outline in region.outlines:
        try:
            boxes.append(Region(outlines=(outline,), crs=region.crs).window_in(raster.dataset))
        except TerrazzoError as error:
            if raster.dataset.crs is None:
                raise
            del error  # it lies elsewhere
    return boxes


def windows_of(raster: Raster, val: Sequence[PixelWindow] = (), *, is_val: bool = False) -> list[PixelWindow]:
    """Divide a raster into windows that do not overlap, as alike in size as they can be, without those in its gaps.

    Args:
        raster: open.
        val: what is validated on.
        is_val: divide this, and not the rest.
    """
    whole = PixelWindow(0, 0, *raster.size)
    areas: list[PixelWindow] = []
    for box in val if is_val else ():
        areas += _without([box], areas)
    if not is_val:
        areas = _without([whole], val)
    has_data = _data_grid(raster.path, raster.path.stat().st_mtime_ns)
    windows = (window for area in areas for window in _divided(area))
    return [w for w in windows if min(w.height, w.width) >= min(LEAST, *raster.size) and _holds_data(has_data, w)]


def _divided(area: PixelWindow) -> list[PixelWindow]:
    rows, columns = (
        [length * part // count for part in range(count + 1)]
        for length, count in ((length, math.ceil(length / SIDE)) for length in (area.height, area.width))
    )
    return [
        PixelWindow(area.top + top, area.left + left, bottom - top, right - left)
        for top, bottom in pairwise(rows)
        for left, right in pairwise(columns)
    ]


def _without(areas: Sequence[PixelWindow], boxes: Sequence[PixelWindow]) -> list[PixelWindow]:
    """What is left of areas outside of boxes, in rectangles: above, below, left and right of each box."""
    left_over = list(areas)
    for box in boxes:
        parts: list[PixelWindow] = []
        for area in left_over:
            bottom, right = area.top + area.height, area.left + area.width
            top, stop = max(area.top, box.top), min(bottom, box.top + box.height)
            left, end = max(area.left, box.left), min(right, box.left + box.width)
            if top >= stop or left >= end:
                parts.append(area)
                continue
            parts += [
                PixelWindow(area.top, area.left, top - area.top, area.width),
                PixelWindow(stop, area.left, bottom - stop, area.width),
                PixelWindow(top, area.left, stop - top, left - area.left),
                PixelWindow(top, end, stop - top, right - end),
            ]
        left_over = [part for part in parts if part.height > 0 and part.width > 0]
    return left_over


def _holds_data(has_data: NDArray[np.bool_] | None, window: PixelWindow) -> bool:
    if has_data is None:
        return True
    rows = slice(window.top // GRID, -(-(window.top + window.height) // GRID))
    columns = slice(window.left // GRID, -(-(window.left + window.width) // GRID))
    return bool(has_data[rows, columns].any())


@lru_cache(maxsize=64)  # a data set is listed several times
def _data_grid(path: Path, written: int) -> NDArray[np.bool_] | None:
    """Which pixels of a coarse grid have a measurement; None where all have.

    Args:
        path: the raster.
        written: when, so that one that has changed is looked at again.
    """
    with closing(Raster(path, ReadOptions(bands=(1,)))) as raster:
        return raster.measured(GRID)
