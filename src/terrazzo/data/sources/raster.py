"""Georeferenced rasters as sources: GeoTIFF, BigTIFF, cloud-optimised GeoTIFF and VRT mosaics, through rasterio (GDAL).

Windows are read from the file when they are asked for. Gaps are pixels without a measurement: nodata, masked out,
fully transparent, not finite, or outside of the outline that was chosen. They are filled before the network sees them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrazzo.data.sources.mosaic import is_vrt, refuse_remote
from terrazzo.data.sources.region import PixelWindow, Region
from terrazzo.data.sources.source import Image
from terrazzo.errors import ImageError, MissingExtraError, TerrazzoError
from terrazzo.imaging.bands import Bands, check_chosen, refuse_unclear
from terrazzo.imaging.read import ReadOptions
from terrazzo.imaging.values import remark_on_range, scaled
from terrazzo.notes import note
from terrazzo.text import printable, shown_path
from terrazzo.tiff_tags import first_directory

__all__ = ["CACHE_MB", "Raster", "crs_name", "gdal_failures", "has_rasterio", "is_raster", "rasterio_env"]

GEOREFERENCE = {33550, 33922, 34264, 34735}  # pixel scale, tie points, matrix, keys of the reference system
OFFLINE = {
    "CPL_VSIL_CURL_ALLOWED_FILENAME": "nothing is downloaded unasked",
    "GDAL_HTTP_PROXY": "http://127.0.0.1:1",  # which nobody answers
    "GDAL_HTTPS_PROXY": "http://127.0.0.1:1",
    "GDAL_VRT_ENABLE_PYTHON": "NO",
}
"""GDAL's settings by which no file makes it ask a server, behind what `refuse_remote` knows of, or run a program."""

CACHE_MB = 64  # of GDAL, which by default takes a twentieth of the machine's memory
WHITE = (255, 255, 255)


def is_raster(path: Path) -> bool:
    """Whether a file is a TIFF with a georeference or a VRT mosaic, by its header. rasterio is not needed for this."""
    if is_vrt(path):
        return True
    try:
        with open(path, "rb") as file:
            return not GEOREFERENCE.isdisjoint(first_directory(file))
    except (OSError, ValueError):
        return False


def has_rasterio() -> bool:
    """Whether the extra ``geo`` is installed."""
    return find_spec("rasterio") is not None


def rasterio_env() -> Any:
    """Return rasterio's context in which GDAL keeps few decoded blocks.

    Raises:
        MissingExtraError: rasterio is not installed.
    """
    try:
        import rasterio
    except ImportError as error:
        raise MissingExtraError("rasterio", "geo") from error
    return rasterio.Env(GDAL_CACHEMAX=CACHE_MB, **OFFLINE)


def crs_name(crs: Any) -> str | None:
    """Return a reference system as people write it, such as ``EPSG:32616``, else its full text."""
    if crs is None:
        return None
    authority = crs.to_authority()
    return str(crs.to_wkt()) if authority is None else ":".join(authority)


@contextmanager
def gdal_failures() -> Iterator[None]:
    """Have all of GDAL's failures come as rasterio's own: some have a class that it does not publish.

    Raises:
        rasterio.errors.RasterioError: with what GDAL says.
    """
    from rasterio.errors import RasterioError

    try:
        yield
    except RasterioError as error:
        raise RasterioError(printable(str(error.__cause__ or error))) from error
    except Exception as error:
        if not type(error).__module__.startswith("rasterio."):
            raise
        raise RasterioError(printable(str(error))) from error


@dataclass(eq=False)
class Raster:
    """A raster, or the part of one that a region names, of which nothing has been read yet but the header.

    Attributes:
        path: the file.
        reading: how it is read, where it leaves that open.
        fill: what gaps are filled with in an RGB image; with a rule they are NaN, as in all images of bands.
        region: the part to take; None for all of it.

    Raises:
        ImageError: it cannot be opened, or lacks what is to be read; the message names it.
        MissingExtraError: rasterio is not installed.
    """

    path: Path
    reading: ReadOptions = field(default_factory=ReadOptions)
    fill: tuple[int, int, int] = WHITE
    region: Region | None = None
    _is_told: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        with rasterio_env():
            import rasterio

            try:
                refuse_remote(self.path)
                with gdal_failures(), warnings.catch_warnings():  # of rasters without a place in the world
                    warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
                    self.dataset: Any = rasterio.open(self.path, driver="VRT" if is_vrt(self.path) else "GTiff")
                    self.points: tuple[list[Any], Any] = self.dataset.gcps
            except rasterio.errors.RasterioError as error:
                raise self._error("it cannot be opened", error, "image-corrupt") from error
            try:
                self.indexes = self._chosen()
                whole = PixelWindow(0, 0, self.dataset.height, self.dataset.width)
                self.window = whole if self.region is None else self.region.window_in(self.dataset)
            except ImageError as error:
                name = shown_path(self.path)
                raise ImageError(f"{name}: {error.message}", fix=error.fix, code=error.code) from error

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def size(self) -> tuple[int, int]:
        return self.window.height, self.window.width

    @property
    def bands(self) -> tuple[int, ...]:
        return self.indexes

    @property
    def has_windows(self) -> bool:
        return True

    @property
    def crs(self) -> Any:
        """The coordinate reference system, of the ground control points if need be; None where there is none."""
        return self.dataset.crs or self.points[1]

    @property
    def transform(self) -> Any:
        """The affine transform from columns and rows to coordinates."""
        return self.window.transform(self.dataset)

    @property
    def about(self) -> Mapping[str, Any]:
        return {"crs": self.crs, "transform": self.transform, "nodata": self.dataset.nodata}

    @cached_property
    def stored(self) -> Bands:
        """Which bands the header names, and of what numbers."""
        dataset = self.dataset
        meanings = [meaning.name for meaning in dataset.colorinterp]
        count = dataset.count
        colors = 3 if meanings[:3] == ["red", "green", "blue"] or (count == 3 and "palette" not in meanings) else 1
        has_alpha = count == colors + 1 and meanings[-1] == "alpha"
        names = tuple(name or "" for name in dataset.descriptions)
        return Bands(count, colors, has_alpha, names, dataset.dtypes[0], None)

    @cached_property
    def may_have_gaps(self) -> bool:
        """Whether any pixel can be a gap, as far as the header tells."""
        flags = (self.dataset.mask_flag_enums[index - 1] for index in self.indexes)
        is_float = self.stored.dtype.startswith("float")
        has_outline = self.region is not None and self.region.has_outline
        by_rule = self.reading.rule is not None and self.reading.rule.nodata is not None
        return is_float or has_outline or by_rule or any("all_valid" not in [f.name for f in flag] for flag in flags)

    def read(self) -> Image:
        height, width = self.size
        return self.read_window(slice(0, height), slice(0, width))

    def read_window(self, rows: slice, columns: slice) -> Image:
        values_HWC = self._values(rows, columns)
        gaps_HW = self._gaps(rows, columns, values_HWC) if self.may_have_gaps else None
        rule = self.reading.rule
        if rule is not None:
            image = rule.scaled(values_HWC)
            if gaps_HW is not None:
                image[gaps_HW] = np.nan
            return image
        rgb_HW3 = self._as_rgb(values_HWC, gaps_HW)
        if gaps_HW is not None:
            rgb_HW3[gaps_HW] = self.fill
        return rgb_HW3

    def gaps(self, rows: slice, columns: slice) -> NDArray[np.bool_] | None:
        """Return which pixels of a window are gaps; None where there can be none.

        Raises:
            ImageError: it cannot be read; the message names it.
        """
        if not self.may_have_gaps:
            return None
        by_value = self.stored.dtype.startswith("float") or self.reading.rule is not None
        return self._gaps(rows, columns, self._values(rows, columns) if by_value else None)

    def is_empty(self, rows: slice, columns: slice) -> bool:
        """Whether a window holds nothing but gaps."""
        gaps_HW = self.gaps(rows, columns)
        return gaps_HW is not None and bool(gaps_HW.all())

    def close(self) -> None:
        self.dataset.close()

    def _chosen(self) -> tuple[int, ...]:
        """The numbers of the bands that are read."""
        reading = self.reading
        if self.stored.dtype.startswith("complex"):
            raise ImageError(
                "its numbers are complex", fix="save their magnitude, as with gdal_calc.py", code="image-format"
            )
        if reading.rule is not None:
            reading.rule.refuse_other(self.stored)
            return reading.rule.chosen
        if reading.bands is not None:
            check_chosen(reading.bands, self.stored.count)
            return reading.bands
        refuse_unclear(self.stored)
        return (1, 2, 3)[: self.stored.colors]

    def _values(self, rows: slice, columns: slice) -> NDArray[Any]:
        """The stored numbers, (rows, columns, bands)."""
        values_CHW = self._ask(rows, columns, self.dataset.read)
        if values_CHW.dtype == np.float64:
            values_CHW = values_CHW.astype(np.float32)
        return np.ascontiguousarray(np.moveaxis(values_CHW, 0, -1))

    def _gaps(self, rows: slice, columns: slice, values_HWC: NDArray[Any] | None) -> NDArray[np.bool_]:
        gaps_HWC = np.moveaxis(self._ask(rows, columns, self.dataset.read_masks) == 0, 0, -1)
        if values_HWC is not None and values_HWC.dtype.kind == "f":
            gaps_HWC = gaps_HWC | ~np.isfinite(values_HWC)
        rule = self.reading.rule
        if values_HWC is not None and rule is not None and rule.nodata is not None:
            gaps_HWC = gaps_HWC | (values_HWC == rule.nodata)
        gaps_HW: NDArray[np.bool_] = gaps_HWC.all(-1)
        if self.region is not None and self.region.has_outline:
            gaps_HW |= self.region.outside(self.dataset, self._place(rows, columns))
        return gaps_HW

    def _place(self, rows: slice, columns: slice) -> PixelWindow:
        """Where a window of the part lies in the file."""
        top, left = self.window.top + rows.start, self.window.left + columns.start
        return PixelWindow(top, left, rows.stop - rows.start, columns.stop - columns.start)

    def _ask(self, rows: slice, columns: slice, read: Any) -> NDArray[Any]:
        """Read values or masks of a window, (bands, rows, columns)."""
        place = self._place(rows, columns)
        with rasterio_env():
            from rasterio.errors import RasterioError

            try:
                with gdal_failures():
                    values: NDArray[Any] = read(self.indexes, window=place.as_slices())
            except (RasterioError, OSError) as error:
                raise self._error(f"{place} cannot be read", error, "image-corrupt") from error
        return values

    def _as_rgb(self, values_HWC: NDArray[Any], gaps_HW: NDArray[np.bool_] | None) -> NDArray[np.uint8]:
        """Bring numbers to 8-bit RGB, by the rules of `terrazzo.imaging.read`."""
        palette_K3 = self._palette
        if palette_K3 is not None:
            colors_HW3: NDArray[np.uint8] = palette_K3[values_HWC[..., 0]]
            return colors_HW3
        if values_HWC.dtype == np.uint8:
            return values_HWC if values_HWC.shape[2] == 3 else np.repeat(values_HWC, 3, axis=2)
        if values_HWC.dtype == np.uint16 and self.reading.value_range is None and not self._is_told:
            self._remark_on_range(values_HWC if gaps_HW is None else values_HWC[~gaps_HW])
        try:
            return scaled(values_HWC, self.reading.value_range, self.fill)
        except ImageError as error:
            message = f"{shown_path(self.path)}: {error.message}"
            raise ImageError(message, fix=error.fix, code=error.code) from error

    def _remark_on_range(self, values: NDArray[Any]) -> None:
        """Say once that values are small, by the first rows that hold any."""
        remarks: list[str] = []
        if values.size:
            remark_on_range(int(values.max()), remarks)
            self._is_told = True
        for remark in remarks:
            note(f"{shown_path(self.path)}: in its first rows {remark}")

    @cached_property
    def _palette(self) -> NDArray[np.uint8] | None:
        """The colours of a raster of indices."""
        if self.dataset.colorinterp[0].name != "palette" or self.stored.dtype != "uint8":
            return None
        colors = self.dataset.colormap(1)
        return np.array([colors.get(value, (0, 0, 0))[:3] for value in range(256)], np.uint8)

    def _error(self, what: str, error: Exception, code: str) -> TerrazzoError:
        fix = "copy or download it again; `gdalinfo -checksum` tells whether it is whole"
        return ImageError(f"{shown_path(self.path)}: {what}: {error}", fix=fix, code=code)
