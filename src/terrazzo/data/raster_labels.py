"""Labels of a georeferenced raster: a GeoTIFF of class indices in its grid, or polygons in GeoJSON.

Both give the stored values of any window. In pixels that have no label the value is `unlabelled`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from terrazzo.data.masks import StoredMask
from terrazzo.data.outlines import IGNORED, object_labels
from terrazzo.data.sources.gdal import crs_name
from terrazzo.data.sources.geojson import Outline, Outlines, placed, points_of, read_outlines
from terrazzo.data.sources.raster import Raster
from terrazzo.data.sources.raster_window import RasterWindow
from terrazzo.data.sources.region import PixelWindow
from terrazzo.errors import DatasetError, ImageError
from terrazzo.imaging.read import ReadOptions
from terrazzo.labels.spec import BACKGROUND_NAMES, LabelSpec
from terrazzo.text import list_names, nearest, show, shown_path

__all__ = [
    "CLASS",
    "Polygons",
    "RasterLabels",
    "WindowMask",
    "labels_of_polygons",
    "open_labels",
]

CLASS = "class"  # the property that names a polygon's class, as in the polygons that prediction writes
VOID = 255  # the stored value without a label, where 255 is not a class
PLAIN = ("background", "foreground")
Values: TypeAlias = NDArray[np.integer[Any]]


class RasterLabels(Protocol):
    """What a raster's pixels are labelled with.

    Attributes:
        file: that holds the labels.
        unlabelled: the stored value of pixels without a label.
    """

    @property
    def file(self) -> Path: ...

    @property
    def unlabelled(self) -> int: ...

    def read(self, window: PixelWindow) -> Values:
        """Return the stored values of a window of the raster.

        Raises:
            ImageError: they cannot be read; the message names the file.
        """
        ...


@dataclass(frozen=True)
class WindowMask:
    """The mask of a window.

    Attributes:
        image: the window.
        labels: of its raster.
        leaves_gaps_out: pixels where the raster has no measurement have no label.
    """

    image: RasterWindow
    labels: RasterLabels
    leaves_gaps_out: bool = True

    @property
    def file(self) -> Path:
        return self.labels.file

    @property
    def part(self) -> str:
        return self.image.part

    def read(self) -> StoredMask:
        try:
            values_HW = self.labels.read(self.image.window)
            gaps_HW = self.image.gaps() if self.leaves_gaps_out else None
        except ImageError as error:
            raise DatasetError(error.message, fix=error.fix, code=error.code) from error
        if gaps_HW is not None:
            values_HW = np.where(gaps_HW, np.asarray(self.labels.unlabelled, values_HW.dtype), values_HW)
        return StoredMask(values_HW)


@dataclass(frozen=True)
class IndexRaster:
    """Labels that are a raster of class indices in the same grid, of which it may cover a part.

    Attributes:
        file: the raster.
        top: the row of the labelled raster that its first row is.
        left: likewise, of columns.
        unlabelled: its nodata is read as this.
    """

    file: Path
    top: int
    left: int
    unlabelled: int

    @classmethod
    def of(cls, file: Path, image: Raster) -> IndexRaster:
        """Open labels of a raster.

        Raises:
            ImageError: they cannot be opened.
            DatasetError: they are not class indices (code "mask-mode"), or lie in another grid ("raster-grid").
        """
        with closing(Raster(file, ReadOptions(bands=(1,)))) as labels:
            if labels.stored.count != 1 or np.dtype(labels.stored.dtype or "f4").kind not in "iu":
                raise DatasetError(
                    f"{shown_path(file)}: it holds {labels.stored} of {labels.stored.dtype}, not class indices",
                    fix="save the labels as one band of whole numbers: gdal_translate -b 1 -ot Byte",
                    code="mask-mode",
                )
            top, left = _offset(labels, image)
            return cls(file, top, left, VOID if labels.stored.dtype == "uint8" else _void_of(labels))

    def read(self, window: PixelWindow) -> Values:
        with closing(Raster(self.file, ReadOptions(bands=(1,)))) as raster:
            height, width = raster.size
            top, left = window.top - self.top, window.left - self.left
            rows = slice(max(top, 0), min(top + window.height, height))
            columns = slice(max(left, 0), min(left + window.width, width))
            dtype = np.promote_types(raster.stored.dtype, np.min_scalar_type(self.unlabelled))
            values_HW: Values = np.full((window.height, window.width), self.unlabelled, dtype)
            if rows.start < rows.stop and columns.start < columns.stop:
                here = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
                stored_hw, gaps_hw = raster.stored_values(rows, columns)[..., 0], raster.gaps(rows, columns)
                if gaps_hw is not None:
                    stored_hw = np.where(gaps_hw, np.asarray(self.unlabelled, dtype), stored_hw)
                values_HW[here] = stored_hw
            return values_HW


@dataclass(frozen=True, eq=False)
class Polygons:
    """Labels that are polygons. Where some overlap, the one with smaller bounds lies on top.

    Attributes:
        file: that holds them.
        outlines: in the raster's coordinates, each with its value; the largest first.
        bounds_N4: of each, least and largest coordinates.
        background: the value of pixels in no polygon.
        unlabelled: never among the values.
        transform: of the raster.
    """

    file: Path
    outlines: tuple[tuple[Outline, int], ...]
    bounds_N4: NDArray[np.float64]
    background: int
    unlabelled: int
    transform: Any

    @classmethod
    def of(cls, file: Path, image: Raster, names: Sequence[str] | None, attribute: str | None) -> Polygons:
        """Place polygons in a raster.

        Args:
            file: GeoJSON.
            image: the raster.
            names: of the classes, whose indices are the values; by default those that the polygons have, after the
                background, or 1 for all polygons if they have none.
            attribute: the property that holds a polygon's class; by default `CLASS`, if they have it.

        Raises:
            ImageError: they have no place in the raster's coordinates.
            DatasetError: the file cannot be read, none of them touches the raster, or a class cannot be told.
        """
        found = _read(file)
        classes = _classes(file, found, attribute)
        values, background, unlabelled = _values(file, classes, names)
        try:
            geometries = placed([outline for _, outline in found.polygons], found.crs, image.dataset)
        except ImageError as error:
            raise DatasetError(f"{shown_path(file)}: {error.message}", fix=error.fix, code=error.code) from error
        bounds_N4 = np.array([_bounds(points_of(outline["coordinates"])) for outline in geometries])
        largest_first = np.argsort(-np.prod(bounds_N4[:, 2:] - bounds_N4[:, :2], axis=1), kind="stable")
        height, width = image.size
        area = _bounds(_corners(image.transform, height, width))
        if not _touching(bounds_N4, area).size:
            there = (*bounds_N4[:, :2].min(0).tolist(), *bounds_N4[:, 2:].max(0).tolist())
            raise DatasetError(
                f"{shown_path(file)}: none of its {len(values)} polygons touches {image.name}: they lie within "
                f"{_shown(there)}, and the raster within {_shown(area)} ({crs_name(image.crs)})",
                fix="save the polygons in longitude and latitude, or name their reference system in `crs`",
                code="raster-labels",
            )
        ordered = tuple((geometries[number], values[number]) for number in largest_first)
        return cls(file, ordered, bounds_N4[largest_first], background, unlabelled, image.dataset.transform)

    def read(self, window: PixelWindow) -> Values:
        from rasterio.features import rasterize

        transform = window.moved(self.transform)
        area = _bounds(_corners(transform, window.height, window.width))
        here = [self.outlines[number] for number in _touching(self.bounds_N4, area)]
        highest = max([self.background, self.unlabelled, *(value for _, value in here)])
        values_HW: Values = np.full((window.height, window.width), self.background, np.min_scalar_type(highest))
        if here:
            rasterize(here, out=values_HW, transform=transform)
        return values_HW


def open_labels(
    file: Path, image: Raster, names: Sequence[str] | None = None, attribute: str | None = None
) -> RasterLabels:
    """Open what labels a raster: a GeoTIFF of class indices, or polygons as of `Polygons.of`.

    Raises:
        ImageError, DatasetError: as `IndexRaster.of` and `Polygons.of`.
    """
    if file.suffix.lower() in (".geojson", ".json"):
        return Polygons.of(file, image, names, attribute)
    return IndexRaster.of(file, image)


def labels_of_polygons(files: Iterable[Path]) -> LabelSpec:
    """Return the classes of polygons that lie in several files.

    Raises:
        DatasetError: a file cannot be read, or some of its polygons have a class and others do not.
    """
    names = sorted({name for file in files for name in _classes(file, _read(file), None) if name is not None})
    return object_labels(names) if names else LabelSpec.from_names(PLAIN)


def _read(file: Path) -> Outlines:
    found = read_outlines(file, error=DatasetError, code="raster-labels")
    if not found.polygons:
        raise DatasetError(
            f"{shown_path(file)} holds no polygon", fix="save the labels as polygons in GeoJSON", code="raster-labels"
        )
    return found


def _classes(file: Path, found: Outlines, attribute: str | None) -> list[str | None]:
    """The name of each polygon's class; None for all where the file has no classes."""
    key = attribute or CLASS
    values = [properties.get(key) for properties, _ in found.polygons]
    classes = [None if value in (None, "") else str(value) for value in values]
    missing = classes.count(None)
    if missing == 0 or (missing == len(classes) and attribute is None):
        return classes
    there = sorted({name for properties, _ in found.polygons for name in properties})
    near = nearest(key, there)
    raise DatasetError(
        f"{shown_path(file)}: {missing} of {len(classes)} polygons have no {show(key)}",
        fix=f"give it to all of them{'' if near is None or near == key else f'; or did you mean {show(near)}?'}",
        code="raster-labels",
    )


def _values(file: Path, classes: Sequence[str | None], names: Sequence[str] | None) -> tuple[list[int], int, int]:
    """The value of each polygon, of pixels in none, and of pixels without a label."""
    if names is None:
        if None in classes:
            return [1] * len(classes), 0, VOID
        spec = object_labels(sorted({name for name in classes if name is not None}))
        return [0 if name is None else _index(name, spec.names) or 0 for name in classes], 0, IGNORED
    backgrounds = [k for k, name in enumerate(names) if name.strip().casefold() in BACKGROUND_NAMES]
    unlabelled = LabelSpec.from_names(list(names)).ignore_index
    background = backgrounds[0] if backgrounds else unlabelled
    if None in classes:
        objects = [k for k in range(len(names)) if k not in backgrounds]
        if len(objects) != 1 or not backgrounds:
            raise DatasetError(
                f"{shown_path(file)}: its polygons have no {show(CLASS)}, and there are {len(objects)} classes beside "
                f"the background: {list_names(names)}",
                fix="name the property that holds their class with --attribute (in Python attribute=)",
                code="raster-labels",
            )
        return [objects[0]] * len(classes), background, unlabelled
    found = {name: _index(name, names) for name in classes if name is not None}
    if unknown := [name for name, index in found.items() if index is None]:
        raise DatasetError(
            f"{shown_path(file)}: it has polygons of {list_names(unknown)}, and the classes are {list_names(names)}",
            fix="give polygons the names of the classes",
            code="raster-labels",
        )
    return [found[name] or 0 for name in classes if name is not None], background, unlabelled


def _index(name: str, names: Sequence[str]) -> int | None:
    folded = name.strip().casefold()
    return next((k for k, other in enumerate(names) if other.strip().casefold() == folded), None)


def _offset(labels: Raster, image: Raster) -> tuple[int, int]:
    """Where the labels' first pixel lies in the raster.

    Raises:
        DatasetError: their pixels are not the raster's.
    """
    own, other = labels.dataset.transform, image.dataset.transform
    to_pixels = ~other
    column, row = (
        to_pixels.a * own.c + to_pixels.b * own.f + to_pixels.c,
        to_pixels.d * own.c + to_pixels.e * own.f + to_pixels.f,
    )
    height, width = labels.size
    rows, columns = image.dataset.shape
    side = max(height, width)  # a difference in scale shows most at the far corner
    tolerance = 0.05 / side * max(abs(other.a), abs(other.b), abs(other.d), abs(other.e))
    is_alike = all(abs(own[k] - other[k]) <= tolerance for k in (0, 1, 3, 4))
    is_whole = abs(row - round(row)) < 0.05 and abs(column - round(column)) < 0.05
    if labels.crs != image.crs or not is_alike or not is_whole:
        raise DatasetError(
            f"{shown_path(labels.path)} and {shown_path(image.path)} do not lie in the same grid: {_grid(labels)}; "
            f"{_grid(image)}",
            fix=f"bring the labels into the raster's grid: {_warp(image)}",
            code="raster-grid",
        )
    top, left = round(row), round(column)
    if top >= rows or left >= columns or top + height <= 0 or left + width <= 0:
        raise DatasetError(
            f"{shown_path(labels.path)} does not overlap {shown_path(image.path)}",
            fix="give the labels of this raster",
            code="raster-grid",
        )
    return top, left


def _grid(raster: Raster) -> str:
    t, (height, width) = raster.dataset.transform, raster.dataset.shape
    numbers = ", ".join(f"{number:.10g}" for number in tuple(t)[:6])
    return f"{raster.name} is {width} x {height}, {crs_name(raster.crs) or 'without a reference system'}, ({numbers})"


def _warp(image: Raster) -> str:
    bounds, (height, width) = image.dataset.bounds, image.dataset.shape
    extent = " ".join(f"{number:.10g}" for number in (bounds.left, bounds.bottom, bounds.right, bounds.top))
    name = crs_name(image.crs) or ""
    target = f"-t_srs {name} " if name and len(name) < 20 else ""
    return f"gdalwarp -r near {target}-te {extent} -ts {width} {height} LABELS NEW"


def _void_of(labels: Raster) -> int:
    """255, or 65535 where 255 can be a class: by the largest value that is there."""
    height, width = labels.size
    largest = 0
    for top in range(0, height, 1024):
        rows, columns = slice(top, min(top + 1024, height)), slice(0, width)
        values_HW, gaps_HW = labels.stored_values(rows, columns)[..., 0], labels.gaps(rows, columns)
        largest = max(largest, int((values_HW if gaps_HW is None else values_HW[~gaps_HW]).max(initial=0)))
    return VOID if largest <= VOID else IGNORED


def _corners(transform: Any, height: int, width: int) -> list[tuple[float, float]]:
    t = transform
    return [(t.a * x + t.b * y + t.c, t.d * x + t.e * y + t.f) for x in (0, width) for y in (0, height)]


def _bounds(points: Sequence[tuple[float, ...]]) -> tuple[float, float, float, float]:
    xs, ys = [point[0] for point in points], [point[1] for point in points]
    return min(xs), min(ys), max(xs), max(ys)


def _touching(bounds_N4: NDArray[np.float64], area: tuple[float, ...]) -> NDArray[np.intp]:
    """Which boxes overlap an area; none that has no place, as of a polygon beyond what a projection can show."""
    left, bottom, right, top = bounds_N4.T
    return np.flatnonzero((left < area[2]) & (area[0] < right) & (bottom < area[3]) & (area[1] < top))


def _shown(bounds: tuple[float, ...]) -> str:
    return ",".join(f"{number:.8g}" for number in bounds) if all(map(math.isfinite, bounds)) else "no place"
